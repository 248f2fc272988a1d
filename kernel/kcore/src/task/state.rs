//! Task states, as Linux names them (`include/linux/sched.h`), and the moves between them.
//!
//! `Task::set_state` is the one place that changes a state, and debug builds ask [`TaskState::may_become`] there. Two parties
//! move a task: it names its own next state while it runs (sleep, stop, exit), and whoever wakes it makes it Running again
//! ([`TaskState::is_woken_by`]). EXIT_ZOMBIE is not here: as in Linux it is said of the process that waits to be reaped
//! (`tree::ExitState`), while its last thread is Dead to the scheduler.

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
    /// TASK_PARKED: a kernel thread that was asked to step aside; ordinary wake-ups do not reach it.
    Parked = 0x40,
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
    /// Mask of the end of parking.
    pub const FOR_UNPARK: u32 = 0x40;
    /// Mask of the first wake-up.
    pub const FOR_NEW: u32 = 0x800;

    /// Every state.
    pub const ALL: [TaskState; 10] = [
        TaskState::Running,
        TaskState::Interruptible,
        TaskState::Uninterruptible,
        TaskState::Stopped,
        TaskState::Traced,
        TaskState::Parked,
        TaskState::Dead,
        TaskState::Killable,
        TaskState::Idle,
        TaskState::New,
    ];

    /// Whether a task in this state may be put into `to`: only a running task goes anywhere but back to Running, nobody
    /// becomes new, and from Dead there is no return. Naming the same state again is no move.
    pub fn may_become(self, to: TaskState) -> bool {
        match (self, to) {
            _ if self == to => true,
            (TaskState::Dead, _) | (_, TaskState::New) => false,
            (TaskState::Running, _) | (_, TaskState::Running) => true,
            _ => false,
        }
    }

    /// Whether a wake-up with this mask ([`TaskState::NORMAL`] and its neighbours) reaches a task in this state.
    pub fn is_woken_by(self, mask: u32) -> bool {
        self as u32 & mask != 0
    }

    /// The state with this number. Only numbers stored by `as u32` of a state come back.
    pub fn from_number(number: u32) -> TaskState {
        // The usual ones first, without a search.
        match number {
            0 => TaskState::Running,
            1 => TaskState::Interruptible,
            _ => Self::ALL.into_iter().find(|state| *state as u32 == number).unwrap_or(TaskState::Running),
        }
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
            TaskState::Parked => 'P',
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
            'P' => "P (parked)",
            'X' => "X (dead)",
            _ => "I (idle)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TaskState;
    use TaskState::{Dead, Idle, Interruptible, Killable, New, Running, Stopped, Traced, Uninterruptible};
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

    /// Sleeps that the task itself enters.
    const SLEEPS: [TaskState; 6] = [Interruptible, Uninterruptible, Killable, Idle, Stopped, Traced];

    #[test]
    fn only_uninterruptible_sleep_counts_to_the_load() {
        let counted: Vec<TaskState> = TaskState::ALL.into_iter().filter(|state| state.contributes_to_load()).collect();
        assert_eq!(counted, [Uninterruptible, Killable]);
    }

    #[test]
    fn numbers_and_states_agree() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::from_number(state as u32), state);
        }
    }

    #[test]
    fn letters_are_those_of_proc_5() {
        let letters: String = TaskState::ALL.into_iter().map(TaskState::letter).collect();
        assert_eq!(letters, "RSDTtPXDIR");
        for state in TaskState::ALL {
            assert!(state.description().starts_with(state.letter()), "{state:?}");
        }
    }

    #[test]
    fn a_signal_wakes_only_interruptible_sleepers() {
        for state in SLEEPS {
            assert_eq!(state.is_woken_by(TaskState::FOR_SIGNAL), state == Interruptible, "{state:?}");
        }
    }

    #[test]
    fn a_fatal_signal_wakes_all_but_plain_uninterruptible_sleep() {
        for state in SLEEPS {
            let expected = !matches!(state, Uninterruptible | Idle);
            assert_eq!(state.is_woken_by(TaskState::FOR_KILL), expected, "{state:?}");
        }
    }

    #[test]
    fn an_event_wakes_sleepers_but_neither_stopped_nor_traced_tasks() {
        for state in SLEEPS {
            assert_eq!(state.is_woken_by(TaskState::NORMAL), !matches!(state, Stopped | Traced), "{state:?}");
        }
    }

    #[test]
    fn sigcont_wakes_only_stopped_tasks_and_a_tracer_only_traced_ones() {
        for state in SLEEPS {
            assert_eq!(state.is_woken_by(TaskState::FOR_CONTINUE), state == Stopped, "{state:?}");
            assert_eq!(state.is_woken_by(TaskState::FOR_TRACER), state == Traced, "{state:?}");
        }
    }

    #[test]
    fn no_wake_up_reaches_the_dead_and_only_the_first_reaches_the_new() {
        for mask in MASKS.into_iter().filter(|mask| *mask != TaskState::FOR_NEW) {
            assert!(!Dead.is_woken_by(mask) && !New.is_woken_by(mask) && !Running.is_woken_by(mask));
        }
        assert!(New.is_woken_by(TaskState::FOR_NEW) && !Dead.is_woken_by(TaskState::FOR_NEW));
    }

    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        for from in TaskState::ALL {
            for to in TaskState::ALL {
                let legal = match from {
                    Running => to != New,
                    Dead => to == Dead,
                    _ => to == Running || to == from,
                };
                assert_eq!(from.may_become(to), legal, "{from:?} to {to:?}");
            }
        }
    }

    /// What may happen to a task.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Wake(u32),
        Sleep(TaskState),
        Exit,
    }

    const MASKS: [u32; 6] = [
        TaskState::NORMAL,
        TaskState::FOR_SIGNAL,
        TaskState::FOR_KILL,
        TaskState::FOR_CONTINUE,
        TaskState::FOR_TRACER,
        TaskState::FOR_NEW,
    ];

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => proptest::sample::select(&MASKS[..]).prop_map(Event::Wake),
            6 => proptest::sample::select(&SLEEPS[..]).prop_map(Event::Sleep),
            1 => Just(Event::Exit),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: every move is legal, a sleeper is left only by a wake-up meant for it, and
        /// the dead stay dead.
        #[test]
        fn a_life_of_random_events_makes_only_legal_moves(events in proptest::collection::vec(event(), 0..200)) {
            let mut state = New;
            let mut blocked = 0i32;
            for event in events {
                let next = match event {
                    Event::Wake(mask) if state.is_woken_by(mask) => Running,
                    Event::Sleep(to) if state == Running => to,
                    Event::Exit if state == Running => Dead,
                    _ => state,
                };
                assert!(state.may_become(next), "{state:?} to {next:?} by {event:?}");
                assert!(state != Dead || next == Dead);
                blocked += i32::from(next.contributes_to_load()) - i32::from(state.contributes_to_load());
                assert_eq!(blocked, i32::from(next.contributes_to_load()), "the load counts the sleeper once");
                state = next;
            }
        }
    }
}
