//! `/proc/drupe`: what this kernel tells of itself and Linux has no file for.
//!
//! `latency` says how long a task may have to wait for a CPU, per CPU: the longest sections with preemption off and with
//! interrupts masked, with the place where they began (debug builds measure them, see [`hal::latency`]), and the longest waits
//! from a wake-up to the CPU, with their distribution. Writing anything begins anew.

use hal::latency::{self, Section};

use super::Entry;
use super::text::Text;
use crate::Result;
use crate::sched::stats;

pub(super) static ENTRIES: &[Entry] = &[Entry::setting("latency", show_latency, reset_latency)];

fn show_latency(text: &mut Text) -> Result<()> {
    if !latency::IS_MEASURED {
        text.str("# sections are measured in debug builds only\n");
    }
    let online = hal::cpu::online_mask();
    for cpu in (0..hal::MAX_CPUS).filter(|cpu| online >> cpu & 1 != 0) {
        push_section(text, cpu, "preemption_off", Section::PreemptionOff);
        push_section(text, cpu, "interrupts_off", Section::InterruptsOff);
        let delays = stats::wakeup_delays(cpu);
        text.str("cpu").num(cpu as u64).str(" wakeup_ns").field(delays.longest_ns);
        text.str(" real_time").field(delays.longest_real_time_ns);
        text.str("\ncpu").num(cpu as u64).str(" wakeups_by_octave_us");
        delays.histogram.iter().for_each(|count| {
            text.field(u64::from(*count));
        });
        text.byte(b'\n');
    }
    Ok(())
}

fn push_section(text: &mut Text, cpu: usize, name: &str, section: Section) {
    let Some(longest) = latency::longest(cpu, section) else { return };
    text.str("cpu").num(cpu as u64).byte(b' ').str(name).str("_ns").field(longest.ns).byte(b' ');
    text.str(longest.place.file()).byte(b':').num(u64::from(longest.place.line())).byte(b'\n');
}

fn reset_latency(_: &[u8]) -> Result<()> {
    latency::reset();
    stats::reset_wakeup_delays();
    Ok(())
}
