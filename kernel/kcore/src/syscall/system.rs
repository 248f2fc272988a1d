//! The machine as a whole: reboot(2).

use abi::Errno;
use abi::capability::CAP_SYS_BOOT;

use super::{Context, UserStr};
use crate::Result;

/// LINUX_REBOOT_MAGIC1, and the four values of the second magic.
const MAGIC1: u32 = 0xfee1_dead;
const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];

/// LINUX_REBOOT_CMD_*.
mod command {
    pub const RESTART: u32 = 0x0123_4567;
    pub const RESTART2: u32 = 0xa1b2_c3d4;
    pub const HALT: u32 = 0xcdef_0123;
    pub const POWER_OFF: u32 = 0x4321_fedc;
    pub const CAD_ON: u32 = 0x89ab_cdef;
    pub const CAD_OFF: u32 = 0;
}

/// reboot(2).
pub fn reboot(cx: &mut Context<'_>, magic1: u32, magic2: u32, command: u32, _argument: UserStr) -> Result<usize> {
    if !cx.task.capable(CAP_SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    if magic1 != MAGIC1 || !MAGIC2.contains(&magic2) {
        return Err(Errno::EINVAL);
    }
    let power = crate::init::power().ok_or(Errno::ENODEV)?;
    match command {
        // There is no keyboard to press Ctrl-Alt-Del on.
        command::CAD_ON | command::CAD_OFF => {
            let on = u32::from(command == command::CAD_ON);
            crate::fs::proc::sysctl::CTRL_ALT_DEL.store(on, core::sync::atomic::Ordering::Relaxed);
            return Ok(0);
        }
        command::POWER_OFF => {
            log::info!("reboot: Power down");
            power.power_off();
        }
        // A Pi that halts draws as much as one that is off.
        command::HALT => {
            log::info!("reboot: System halted");
            power.power_off();
        }
        command::RESTART | command::RESTART2 => {
            log::info!("reboot: Restarting system");
            power.restart();
        }
        _ => return Err(Errno::EINVAL),
    }
    Err(Errno::EIO)
}
