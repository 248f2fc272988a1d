//! The ABI programs of Drupe: what the manual pages promise, case by case.
//!
//! `abitest FAMILY...` runs families, `abitest all` every one, `abitest FAMILY NAME` what is named like that;
//! `abitest list` lists. Each case prints `ok FAMILY name` or `not ok FAMILY name: why`; the last line has the totals, and
//! the exit status is 1 when a case failed. `abitest fuzz N SEED` makes N system calls at random in a child; `abitest torture SECONDS
//! SEED` sets processes on each other, `abitest heavy NAME` is a load to survive.
//!
//! The same source runs on a PC (`cargo run -p abitest -- all`), where Linux itself is the judge of the cases, under
//! qemu-user, and on Drupe. What qemu-user is known to do otherwise is skipped when `ABITEST_QEMU_USER` is set.
#![deny(unsafe_code)]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "a family speaks of dozens of Linux's constants"))]

#[expect(unsafe_code, reason = "system calls, and memory that Rust knows nothing of")]
mod kernel;

mod bad;
mod caps;
mod case;
mod clock;
mod clone;
mod cow;
mod creds;
mod epoll;
mod exec;
mod file;
mod fork;
mod futex;
mod futex_pi;
mod futex_waitv;
mod futex_words;
mod fuzz;
mod heavy;
mod inotify;
mod life;
mod limits;
mod membarrier;
mod memfd;
mod mmap;
mod pgrp;
mod pipe;
mod poll;
mod proc;
#[cfg(target_arch = "aarch64")]
mod ptrace;
mod robust;
mod rseq;
mod seccomp;
mod signal;
mod splice;
mod stats;
mod time;
mod timer;
mod timerfd;
mod torture;
mod tty;
mod unix;
mod wait;

use case::{Case, Verdict};

const FAMILIES: &[(&str, &[Case])] = &[
    ("fork", fork::CASES),
    ("cow", cow::CASES),
    ("exec", exec::CASES),
    ("wait", wait::CASES),
    ("life", life::CASES),
    ("signal", signal::CASES),
    ("pgrp", pgrp::CASES),
    ("mmap", mmap::CASES),
    ("pipe", pipe::CASES),
    ("file", file::CASES),
    ("futex", futex::CASES),
    ("futex-words", futex_words::CASES),
    ("futex-waitv", futex_waitv::CASES),
    ("futex-pi", futex_pi::CASES),
    ("robust", robust::CASES),
    ("membarrier", membarrier::CASES),
    ("rseq", rseq::CASES),
    ("time", time::CASES),
    ("timer", timer::CASES),
    ("timerfd", timerfd::CASES),
    ("clock", clock::CASES),
    ("poll", poll::CASES),
    ("creds", creds::CASES),
    ("limits", limits::CASES),
    ("proc", proc::CASES),
    #[cfg(target_arch = "aarch64")]
    ("ptrace", ptrace::CASES),
    ("clone", clone::CASES),
    ("caps", caps::CASES),
    ("seccomp", seccomp::CASES),
    ("stats", stats::CASES),
    ("tty", tty::CASES),
    ("epoll", epoll::CASES),
    ("inotify", inotify::CASES),
    ("memfd", memfd::CASES),
    ("splice", splice::CASES),
    ("unix", unix::CASES),
    ("bad", bad::CASES),
];

/// What qemu-user 7.2 does unlike Linux: it has no vfork and no clone but fork and pthread_create, runs only what binfmt_misc
/// knows (so the families exec, clone, caps and seccomp are left out as a whole, and robust and rseq, whose calls it lacks), keeps signals and mappings of its own, and reads some arguments itself.
/// Each of these passes on Linux itself.
const QEMU_USER_DIFFERS: &[&str] = &[
    "bad_maxevents_are_einval",
    "pwait2_takes_nanoseconds",
    "pwait2_bad_time_is_einval",
    "signalfd_bad_arguments",
    "exec_opens_and_reads",
    "bad_flags_are_einval",
    "other_files_have_no_seals",
    "unknown_flags_are_einval",
    "offset_of_a_pipe_is_espipe",
    "nowait_on_pipes",
    "nowait_flags_elsewhere",
    "append_flag_writes_at_the_end",
    "unknown_rwf_is_eopnotsupp",
    "vectored_offsets",
    "bad_families_and_kinds",
    "rights_without_room_are_cut",
    "the_count_can_be_set_for_a_restored_process",
    "every_clock_has_a_resolution",
    "the_time_of_day_is_checked",
    "dead_owner_with_a_robust_list",
    "priority_goes_down_a_chain",
    "vfork_parent_waits_for_the_child",
    "clone_fs_shares_the_working_directory",
    "clone_files_shares_the_descriptors",
    "clone_vm_shares_memory",
    "tids_are_stored_on_both_sides",
    "another_exit_signal_wants_wall",
    "clone_parent_makes_a_sibling",
    "orphans_go_to_the_subreaper",
    "parent_death_signal_arrives",
    "clone3_forks",
    "dontfork_memory_is_missing_in_the_child",
    "wipeonfork_memory_is_zero_in_the_child",
    "nocldwait_reaps_by_itself",
    "nocldstop_keeps_stops_quiet",
    "default_action_kills",
    "kill_and_stop_cannot_be_handled",
    "mask_of_the_action_holds_in_the_handler",
    "old_action_is_returned",
    "child_that_has_execed_is_eacces",
    "newly_orphaned_stopped_group_gets_hup_and_cont",
    "fixed_noreplace_is_eexist",
    "bad_arguments_are_einval",
    "mremap_bad_arguments",
    "madvise_of_a_hole_is_enomem",
    "brk_grows_and_shrinks",
    "stack_limit_holds",
    "address_space_limit_is_enomem",
    "populate_and_dontdump_are_accepted",
    "bad_pointer_is_efault_and_leaks_nothing",
    "robust_list_marks_the_dead_owner",
    "nanosleep_refuses_nonsense",
    "proc_status_has_the_ids",
    "proc_stat_has_its_fields",
    "slave_becomes_the_controlling_terminal",
    "not_a_terminal",
    "session_leader_exit_hangs_up",
    "hangup_tells_the_leader_and_not_the_foreground",
    "foreground_hears_of_a_hangup_when_the_leader_ends",
    "leader_gives_its_terminal_up",
    "member_gives_its_terminal_up_for_itself",
    "another_sessions_terminal_is_eperm",
    "vhangup_is_for_root",
    "pointers_to_nothing_are_efault",
    "pointers_into_the_kernel_are_efault",
    "buffers_that_end_in_nothing",
    "lengths_that_wrap",
    "huge_structures_are_refused",
    "garbage_programs_do_not_run",
    "memory_eater_is_stopped_and_the_rest_lives",
    "data_limit_holds_for_the_heap",
    "data_limit_holds_for_mappings",
    "data_limit_holds_for_mprotect",
    "locked_mappings_are_limited",
    "cpu_limit_kills_at_the_hard_limit",
    "cpu_limit_is_inherited",
    "cpu_limit_sends_xcpu",
    "queued_signals_are_limited",
    "standard_signals_are_sent_at_the_limit",
    "usage_of_children_comes_with_wait",
    "aborted_child_leaves_a_core",
    "core_limit_of_zero_leaves_none",
    "core_is_cut_at_the_limit",
    "undumpable_child_leaves_no_core",
    "core_replaces_what_is_in_the_way",
    "core_shows_all_threads",
    "stat_has_52_fields",
    "stat_survives_a_name_with_brackets",
    "status_counts_threads",
    "maps_have_their_columns",
    "sched_begins_with_the_name",
    "timers_are_listed",
    "threads_are_directories",
    "syscall_of_a_sleeper",
    "waitid_clears_the_info_when_it_fails",
    "nothread_is_for_ones_own_children",
    "the_death_signal_comes_with_the_threads_end",
    "a_subreaper_gets_the_orphan",
    "being_a_subreaper_is_not_inherited",
    "nocldwait_still_sends_the_signal",
    "unknown_flags_are_cleared",
    "a_short_sigpending_is_short",
    "autodisarm_works_on_any_stack",
    "states_have_their_letters",
];

/// What only root can try: another identity, other people's files and processes.
const NEEDS_ROOT: &[&str] = &[
    "alarms_are_for_who_may_wake_the_machine",
    "nonsense_is_refused_before_the_permission",
    "the_time_of_day_is_checked",
    "anybody_may_read_the_discipline",
    "changing_the_discipline_is_for_root",
    "slack_of_others_is_for_who_may_be_nice",
    "real_time_waiters_come_first",
    "most_urgent_waiter_gets_the_lock",
    "waiter_lends_its_priority",
    "priority_goes_down_a_chain",
    "priority_comes_back_after_a_timeout",
    "list_of_root_is_eperm_for_users",
    "process_limit_is_eagain_for_users",
    "written_program_is_etxtbsy",
    "users_may_not_kill_root",
    "low_addresses_are_eperm_for_users",
    "directories_are_made_and_removed",
    "chmod_and_access",
    "chown_clears_setuid",
    "sticky_directory_protects",
    "permission_of_directories",
    "setting_the_clock_is_for_root",
    "setresuid_sets_all_three",
    "user_may_only_swap_its_ids",
    "group_list_is_replaced",
    "setfsuid_returns_the_old",
    "capabilities_go_with_root",
    "keepcaps_keeps_the_permitted",
    "user_cannot_raise_the_hard_limit",
    "nice_is_clamped_and_inherited",
    "user_cannot_become_nicer_to_itself",
    "hostname_is_for_root",
    "proc_status_has_the_ids",
    "setgroups_is_for_root",
    "set_tid_chooses_the_pid",
    "pidfd_signal_to_strangers_is_eperm",
    "namespaces_are_for_root",
    "huge_structures_are_refused",
    "limits_of_root_are_eperm_for_users",
    "locked_memory_is_limited",
    "locked_mappings_are_limited",
    "no_locked_memory_is_eperm",
    "queued_signals_are_limited",
    "standard_signals_are_sent_at_the_limit",
    "nice_limit_lets_users_raise",
    "real_time_limit_lets_users_be_real_time",
    "environ_is_private",
    "oom_score_adj_may_only_rise_for_users",
    "files_of_root_are_closed_to_users",
    "undumpable_belongs_to_root",
    "vhangup_is_for_root",
    "each_devpts_mount_is_an_instance",
    "devpts_options_are_checked_and_shown",
    "devpts_max_is_enospc",
    "max_user_watches_is_enospc",
    "overflow_is_one_event",
    "instances_are_limited",
    "watches_are_limited",
    "unreadable_is_eacces",
    "unmount_is_told",
    "rights_beyond_the_limit_are_etoomanyrefs",
    "credentials_must_be_ones_own",
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if std::env::var_os("ABITEST_EMPTY").is_some() {
        std::process::exit(if arguments == [""] { 77 } else { 1 });
    }
    if std::env::var_os("ABITEST_ARGUMENTS").is_some() {
        print!("{}", arguments.join("|"));
        std::process::exit(0);
    }
    // std ignores it, and an ignored signal is inherited by every case.
    let _ = kernel::sigaction(kernel::SIGPIPE, kernel::SIG_DFL, 0, 0);
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let status = match words.as_slice() {
        [] => usage(),
        [command, ..] if command.starts_with("helper:") => exec::helper(&arguments),
        ["list"] => list(),
        ["fuzz", number, seed] => match (number.parse(), seed.parse()) {
            (Ok(number), Ok(seed)) => fuzz::run(number, seed),
            _ => usage(),
        },
        ["heavy", name] => heavy::run(name).unwrap_or_else(usage),
        ["torture", seconds, seed] => match (seconds.parse(), seed.parse()) {
            (Ok(seconds), Ok(seed)) => torture::run(seconds, seed),
            _ => usage(),
        },
        ["all"] => run(FAMILIES, ""),
        [family, name] if find(family).is_some() && find(name).is_none() => {
            run(&[find(family).unwrap_or_default()], name)
        }
        names => match names.iter().map(|name| find(name)).collect::<Option<Vec<_>>>() {
            Some(families) => run(&families, ""),
            None => usage(),
        },
    };
    std::process::exit(status);
}

fn find(name: &str) -> Option<(&'static str, &'static [Case])> {
    FAMILIES.iter().copied().find(|(family, _)| *family == name)
}

fn usage() -> i32 {
    let families: Vec<&str> = FAMILIES.iter().map(|(family, _)| *family).collect();
    eprintln!(
        "usage: abitest all | FAMILY... | FAMILY NAME | list | fuzz N SEED | torture SECONDS SEED | heavy NAME\nfamilies: {}",
        families.join(" ")
    );
    2
}

fn list() -> i32 {
    for (family, cases) in FAMILIES {
        for (name, _) in *cases {
            println!("{family} {name}");
        }
    }
    0
}

/// Runs the cases of `families` whose names contain `part`.
fn run(families: &[(&'static str, &'static [Case])], part: &str) -> i32 {
    let emulated = std::env::var_os("ABITEST_QEMU_USER").is_some();
    let root = kernel::sys!(kernel::SYS_geteuid) == Ok(0);
    let directory = std::env::temp_dir().join(format!("abitest.{}", std::process::id())).display().to_string();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (family, cases) in families {
        for (name, function) in cases.iter().filter(|(name, _)| name.contains(part)) {
            let needs_root = matches!(*family, "caps" | "seccomp" | "ptrace") || NEEDS_ROOT.contains(name);
            let reason = if emulated
                && (matches!(
                    *family,
                    "exec" | "clone" | "caps" | "seccomp" | "timer" | "robust" | "rseq" | "ptrace" | "stats"
                ) || QEMU_USER_DIFFERS.contains(name))
            {
                Some("qemu-user is not Linux here")
            } else if !root && needs_root {
                Some("needs root")
            } else {
                None
            };
            if let Some(reason) = reason {
                println!("skip {family} {name}: {reason}");
                skipped += 1;
                continue;
            }
            match case::run(*function, &directory) {
                Ok(Verdict::Passed) => {
                    println!("ok {family} {name}");
                    passed += 1;
                }
                Ok(Verdict::Skipped) => {
                    println!("skip {family} {name}: the kernel lacks the call");
                    skipped += 1;
                }
                Err(why) => {
                    println!("not ok {family} {name}: {why}");
                    failed += 1;
                }
            }
        }
    }
    if skipped > 0 {
        println!("abitest: {skipped} skipped");
    }
    println!("abitest: {passed} passed, {failed} failed");
    (failed > 0).into()
}
