//! Task states, as Linux names them (`include/linux/sched.h`).

/// What a task is doing, as the scheduler sees it. The numbers are Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum TaskState {
    /// TASK_RUNNING: on a CPU or on a run queue.
    Running = 0,
    /// TASK_INTERRUPTIBLE: sleeps until an event or a signal. Does not count to the load.
    Interruptible = 1,
    /// TASK_UNINTERRUPTIBLE: sleeps until an event. Counts to the load.
    Uninterruptible = 2,
    /// TASK_STOPPED: job control stopped it.
    Stopped = 4 | WAKE_KILL,
    /// TASK_TRACED: stopped for its tracer.
    Traced = 8,
    /// EXIT_DEAD on its way off the CPU for the last time.
    Dead = 0x80,
    /// TASK_KILLABLE: uninterruptible but for fatal signals.
    Killable = 2 | WAKE_KILL,
    /// TASK_IDLE: uninterruptible without counting to the load; kernel threads with nothing to do.
    Idle = 2 | NO_LOAD,
    /// TASK_NEW: created, never run.
    New = 0x800,
}

const WAKE_KILL: u32 = 0x100;
const NO_LOAD: u32 = 0x400;

impl TaskState {
    /// Mask of an ordinary wake-up: interruptible and uninterruptible sleepers.
    pub const NORMAL: u32 = 1 | 2;
    /// Mask of a signal: interruptible sleepers.
    pub const FOR_SIGNAL: u32 = 1;
    /// Mask of a fatal signal: also killable sleepers and stopped or traced tasks.
    pub const FOR_KILL: u32 = 1 | WAKE_KILL | 8;
    /// Mask of SIGCONT.
    pub const FOR_CONTINUE: u32 = 4;
    /// Mask of a tracer's resume.
    pub const FOR_TRACER: u32 = 8;
    /// Mask of the first wake-up.
    pub const FOR_NEW: u32 = 0x800;

    /// The state with this number. Only numbers stored by `as u32` of a state come back.
    pub fn from_number(number: u32) -> TaskState {
        use TaskState::*;
        [Running, Interruptible, Uninterruptible, Stopped, Traced, Dead, Killable, Idle, New]
            .into_iter()
            .find(|state| *state as u32 == number)
            .unwrap_or(Running)
    }

    /// Whether a sleeper in this state counts to the load average (Linux `task_contributes_to_load`).
    pub fn contributes_to_load(self) -> bool {
        self as u32 & 2 != 0 && self as u32 & NO_LOAD == 0
    }

    /// The letter in `/proc/PID/stat` (proc(5)).
    pub fn letter(self) -> char {
        match self {
            TaskState::Running | TaskState::New => 'R',
            TaskState::Interruptible => 'S',
            TaskState::Uninterruptible | TaskState::Killable => 'D',
            TaskState::Stopped => 'T',
            TaskState::Traced => 't',
            TaskState::Dead => 'X',
            TaskState::Idle => 'I',
        }
    }

    /// The words in `/proc/PID/status`.
    pub fn description(self) -> &'static str {
        match self.letter() {
            'R' => "R (running)",
            'S' => "S (sleeping)",
            'D' => "D (disk sleep)",
            'T' => "T (stopped)",
            't' => "t (tracing stop)",
            'X' => "X (dead)",
            _ => "I (idle)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TaskState;

    #[test]
    fn only_uninterruptible_sleep_counts_to_the_load() {
        assert!(TaskState::Uninterruptible.contributes_to_load());
        assert!(TaskState::Killable.contributes_to_load());
        assert!(!TaskState::Interruptible.contributes_to_load());
        assert!(!TaskState::Idle.contributes_to_load());
        assert!(!TaskState::Stopped.contributes_to_load());
    }

    #[test]
    fn numbers_and_states_agree() {
        for state in [TaskState::Running, TaskState::Stopped, TaskState::Killable, TaskState::Idle, TaskState::New] {
            assert_eq!(TaskState::from_number(state as u32), state);
        }
    }
}
