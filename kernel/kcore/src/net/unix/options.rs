//! Socket options: socket(7), unix(7), as numbers that the socket calls read and write.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use abi::socket as s;

use super::{Endpoint, Kind, Socket};
use crate::Result;

/// Linux `wmem_default` and `rmem_default`.
const DEFAULT_BUFFER: usize = 212_992;
/// Linux `wmem_max`, `rmem_max`, the least buffer for sending (`SOCK_MIN_SNDBUF`) and for receiving.
const MAX_BUFFER: u32 = 212_992;
const MIN_SEND_BUFFER: u32 = 4608;
const MIN_RECEIVE_BUFFER: u32 = 2304;
/// The options that are one bit and change nothing between two ends in memory; they are kept and given back.
const KEPT: [u32; 7] =
    [s::SO_DEBUG, s::SO_REUSEADDR, s::SO_DONTROUTE, s::SO_BROADCAST, s::SO_KEEPALIVE, s::SO_OOBINLINE, s::SO_REUSEPORT];

/// What setsockopt(2) set.
pub struct Options {
    pass_credentials: AtomicBool,
    send_buffer: AtomicUsize,
    receive_buffer: AtomicUsize,
    /// Nanoseconds; 0: for ever.
    receive_timeout: AtomicU64,
    send_timeout: AtomicU64,
    /// A bit for each of [`KEPT`].
    kept: AtomicU32,
    priority: AtomicU32,
    receive_low: AtomicU32,
    linger: AtomicU64,
    /// The name belongs to the listener.
    pub(super) borrowed_name: AtomicBool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pass_credentials: AtomicBool::new(false),
            send_buffer: AtomicUsize::new(DEFAULT_BUFFER),
            receive_buffer: AtomicUsize::new(DEFAULT_BUFFER),
            receive_timeout: AtomicU64::new(0),
            send_timeout: AtomicU64::new(0),
            kept: AtomicU32::new(0),
            priority: AtomicU32::new(0),
            receive_low: AtomicU32::new(1),
            linger: AtomicU64::new(0),
            borrowed_name: AtomicBool::new(false),
        }
    }
}

impl Options {
    /// SO_PASSCRED.
    pub fn pass_credentials(&self) -> bool {
        self.pass_credentials.load(Ordering::Relaxed)
    }

    /// SO_SNDBUF.
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// When a wait that begins now to receive ends (monotonic ns; `u64::MAX`: never).
    pub fn receive_deadline(&self) -> u64 {
        deadline(self.receive_timeout.load(Ordering::Relaxed))
    }

    /// The same to send.
    pub fn send_deadline(&self) -> u64 {
        deadline(self.send_timeout.load(Ordering::Relaxed))
    }

    /// An accepted connection passes credentials when its listener does (Linux `unix_sock_inherit_flags`).
    pub fn inherit(&self, listener: &Options) {
        self.pass_credentials.store(listener.pass_credentials(), Ordering::Relaxed);
    }
}

fn deadline(timeout: u64) -> u64 {
    match timeout {
        0 => u64::MAX,
        timeout => crate::time::monotonic_ns().saturating_add(timeout),
    }
}

/// The place of a bit among [`KEPT`].
fn kept(option: u32) -> Option<u32> {
    KEPT.iter().position(|known| *known == option).map(|at| at as u32)
}

impl Socket {
    fn options(&self) -> &Options {
        &self.endpoint.options
    }

    /// SO_PASSCRED.
    pub fn passes_credentials(&self) -> bool {
        self.options().pass_credentials()
    }

    /// An option of level SOL_SOCKET that is an `int`. `ENOPROTOOPT` for one that does not exist here.
    pub fn option(&self, option: u32) -> Result<u32> {
        let options = self.options();
        let endpoint: &Endpoint = &self.endpoint;
        Ok(match option {
            s::SO_TYPE => self.kind().number(),
            s::SO_DOMAIN => s::AF_UNIX.into(),
            s::SO_PROTOCOL => 0,
            s::SO_ERROR => endpoint.take_error().map_or(0, |error| error.number().into()),
            s::SO_ACCEPTCONN => endpoint.is_listening().into(),
            s::SO_PASSCRED => options.pass_credentials().into(),
            // Linux's figures count its own bookkeeping.
            s::SO_SNDBUF => options.send_buffer() as u32,
            s::SO_RCVBUF => options.receive_buffer.load(Ordering::Relaxed) as u32,
            s::SO_PRIORITY => options.priority.load(Ordering::Relaxed),
            s::SO_RCVLOWAT => options.receive_low.load(Ordering::Relaxed),
            s::SO_SNDLOWAT => 1,
            s::SO_TIMESTAMP | s::SO_PASSSEC => 0,
            _ => {
                let bit = kept(option).ok_or(Errno::ENOPROTOOPT)?;
                options.kept.load(Ordering::Relaxed) >> bit & 1
            }
        })
    }

    /// Sets an option of level SOL_SOCKET that is an `int`. `privileged`: CAP_NET_ADMIN.
    pub fn set_option(&self, option: u32, value: i32, privileged: bool) -> Result<()> {
        let options = self.options();
        let on = value != 0;
        // socket(7): the kernel doubles the value.
        let buffer = |most: u32, least: u32| (value.unsigned_abs().min(most).saturating_mul(2)).max(least) as usize;
        match option {
            s::SO_TYPE | s::SO_DOMAIN | s::SO_PROTOCOL | s::SO_ERROR | s::SO_ACCEPTCONN | s::SO_SNDLOWAT => {
                return Err(Errno::ENOPROTOOPT);
            }
            s::SO_PASSCRED => options.pass_credentials.store(on, Ordering::Relaxed),
            s::SO_SNDBUF => options.send_buffer.store(buffer(MAX_BUFFER, MIN_SEND_BUFFER), Ordering::Relaxed),
            s::SO_RCVBUF => options.receive_buffer.store(buffer(MAX_BUFFER, MIN_RECEIVE_BUFFER), Ordering::Relaxed),
            s::SO_SNDBUFFORCE | s::SO_RCVBUFFORCE if !privileged => return Err(Errno::EPERM),
            s::SO_SNDBUFFORCE => options.send_buffer.store(buffer(u32::MAX / 2, MIN_SEND_BUFFER), Ordering::Relaxed),
            s::SO_RCVBUFFORCE => {
                options.receive_buffer.store(buffer(u32::MAX / 2, MIN_RECEIVE_BUFFER), Ordering::Relaxed);
            }
            // socket(7): "Setting a priority outside the range 0 to 6 requires the CAP_NET_ADMIN capability."
            s::SO_PRIORITY if !(0..=6).contains(&value) && !privileged => return Err(Errno::EPERM),
            s::SO_PRIORITY => options.priority.store(value as u32, Ordering::Relaxed),
            s::SO_RCVLOWAT => {
                let low = if value < 0 { i32::MAX } else { value.max(1) };
                options.receive_low.store(low as u32, Ordering::Relaxed);
            }
            s::SO_TIMESTAMP | s::SO_PASSSEC => {}
            _ => {
                let bit = 1 << kept(option).ok_or(Errno::ENOPROTOOPT)?;
                let old = options.kept.load(Ordering::Relaxed);
                options.kept.store(if on { old | bit } else { old & !bit }, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// SO_RCVTIMEO or SO_SNDTIMEO (ns; 0: for ever).
    pub fn timeout(&self, sending: bool) -> u64 {
        let options = self.options();
        if sending { &options.send_timeout } else { &options.receive_timeout }.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set_timeout(&self, sending: bool, nanoseconds: u64) {
        let options = self.options();
        if sending { &options.send_timeout } else { &options.receive_timeout }.store(nanoseconds, Ordering::Relaxed);
    }

    /// SO_LINGER, which changes nothing here: on, seconds.
    pub fn linger(&self) -> (i32, i32) {
        let packed = self.options().linger.load(Ordering::Relaxed);
        ((packed >> 32) as i32, packed as u32 as i32)
    }

    /// Sets it.
    pub fn set_linger(&self, on: bool, seconds: i32) {
        let packed = u64::from(on) << 32 | u64::from(seconds as u32);
        self.options().linger.store(packed, Ordering::Relaxed);
    }

    /// SO_PEERCRED: who was at the other end when the connection was made; of a listener, who listens. A socket without a
    /// connection has nobody: pid 0 and the ids -1.
    pub fn peer_credentials(&self) -> s::Ucred {
        if let Some(listener) = *self.endpoint.listener.lock() {
            return listener.ucred();
        }
        let known = self.endpoint.peer.get().filter(|_| self.kind() != Kind::Datagrams || self.endpoint.is_connected());
        known.map_or(s::Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX }, |sender| sender.ucred())
    }
}
