//! Pipes between processes.

use abi::fcntl::O_NONBLOCK;
use abi::{Errno, nr};
use kcore::testing::{Libc, Machine};

use crate::{Diary, MS, story};

#[test]
fn bytes_come_out_in_the_order_they_went_in() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        init.write_fd(write, b"one").unwrap();
        init.write_fd(write, b"two").unwrap();
        assert_eq!(init.read_fd(read, 4).unwrap(), b"onet");
        assert_eq!(init.read_fd(read, 100).unwrap(), b"wo");
    });
}

#[test]
fn the_end_of_the_last_writer_is_the_end_of_file() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let second = init.dup(write).unwrap();
        init.close(write).unwrap();
        let child = init.fork(move |child| {
            child.sleep_ns(10 * MS).unwrap();
            child.write_fd(second, b"last").unwrap();
            0
        });
        init.close(second).unwrap();
        assert_eq!(init.read_fd(read, 100).unwrap(), b"last");
        assert_eq!(init.read_fd(read, 100).unwrap(), b"");
        init.wait_for(child);
    });
}

#[test]
fn a_full_pipe_blocks_its_writer_until_somebody_reads() {
    story(|init| {
        let diary = Diary::default();
        let inner = diary.clone();
        let (read, write) = init.pipe(0).unwrap();
        let child = init.fork(move |child| {
            child.write_fd(write, &[1; 65536]).unwrap();
            inner.note("full");
            child.write_fd(write, &[2; 100]).unwrap();
            inner.note("written");
            0
        });
        init.sleep_ns(10 * MS).unwrap();
        assert_eq!(diary.entries(), ["full"]);
        let mut got = 0;
        while got < 65636 {
            got += init.read_fd(read, 8192).unwrap().len();
        }
        assert_eq!(init.wait_for(child).exit_code(), Some(0));
        assert_eq!(diary.entries(), ["full", "written"]);
    });
}

#[test]
fn non_blocking_ends_say_eagain() {
    story(|init| {
        let (read, write) = init.pipe(O_NONBLOCK).unwrap();
        assert_eq!(init.read_fd(read, 1), Err(Errno::EAGAIN));
        let mut written = 0;
        let error = loop {
            match init.write_fd(write, &[0; 4096]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!((written, error), (65536, Errno::EAGAIN));
    });
}

#[test]
fn ends_of_a_pipe_have_one_direction_each() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        assert_eq!(init.write_fd(read, b"x"), Err(Errno::EBADF));
        assert_eq!(init.read_fd(write, 1), Err(Errno::EBADF));
        assert_eq!(init.call(nr::LSEEK, &[read as u64, 0, 0]), Err(Errno::ESPIPE));
        assert_eq!(init.read_fd(99, 1), Err(Errno::EBADF));
        assert_eq!(init.close(99), Err(Errno::EBADF));
    });
}

#[test]
fn a_bad_buffer_is_efault_and_loses_nothing() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        init.write_fd(write, b"data").unwrap();
        assert_eq!(init.call(nr::READ, &[read as u64, 8, 4]), Err(Errno::EFAULT));
        assert_eq!(init.call(nr::WRITE, &[write as u64, 8, 4]), Err(Errno::EFAULT));
        assert_eq!(init.call(nr::READ, &[read as u64, 1 << 60, 4]), Err(Errno::EFAULT));
        assert_eq!(init.read_fd(read, 10).unwrap(), b"data");
    });
}

#[test]
fn a_pipeline_of_five_processes_passes_everything_on() {
    for cpus in [1, 2, 4] {
        Machine::with_cpus(cpus).run(|init| {
            let (mut read, write) = init.pipe(0).unwrap();
            let source = init.fork(move |child| {
                for n in 0..200u32 {
                    child.write_fd(write, &n.to_le_bytes().repeat(100)).unwrap();
                }
                0
            });
            init.close(write).unwrap();
            let mut children = vec![source];
            for _ in 0..3 {
                let (next_read, next_write) = init.pipe(0).unwrap();
                let from = read;
                children.push(init.fork(move |child| {
                    child.close(next_read).unwrap();
                    loop {
                        let piece = child.read_fd(from, 1000).unwrap();
                        if piece.is_empty() {
                            return 0;
                        }
                        let mut sent = 0;
                        while sent < piece.len() {
                            sent += child.write_fd(next_write, &piece[sent..]).unwrap();
                        }
                    }
                }));
                init.close(next_write).unwrap();
                init.close(read).unwrap();
                read = next_read;
            }
            let mut all = Vec::new();
            loop {
                let piece = init.read_fd(read, 4096).unwrap();
                if piece.is_empty() {
                    break;
                }
                all.extend(piece);
            }
            let expected: Vec<u8> = (0..200u32).flat_map(|n| n.to_le_bytes().repeat(100)).collect();
            assert!(all == expected, "{} bytes of {}", all.len(), expected.len());
            for child in children {
                assert_eq!(init.wait_for(child).exit_code(), Some(0));
            }
        });
    }
}

#[test]
fn descriptors_are_the_lowest_free_numbers_and_limited() {
    story(|init| {
        let (read, write) = init.pipe(0).unwrap();
        let third = init.dup(read).unwrap();
        assert_eq!(third, write + 1);
        init.close(read).unwrap();
        assert_eq!(init.dup(write), Ok(read));
        let limit = abi::resource::Rlimit { rlim_cur: 20, rlim_max: 20 };
        init.call_with(nr::SETRLIMIT, &[u64::from(abi::resource::RLIMIT_NOFILE)], &limit, &[]).unwrap();
        let error = loop {
            if let Err(error) = init.dup(write) {
                break error;
            }
        };
        assert_eq!(error, Errno::EMFILE);
    });
}

#[test]
fn two_processes_play_ping_pong() {
    for cpus in [1, 2] {
        Machine::with_cpus(cpus).run(|init| {
            let (ping_read, ping_write) = init.pipe(0).unwrap();
            let (pong_read, pong_write) = init.pipe(0).unwrap();
            let child = init.fork(move |child| {
                for n in 0..100u32 {
                    assert_eq!(child.read_fd(ping_read, 4).unwrap(), n.to_le_bytes());
                    child.write_fd(pong_write, &n.to_le_bytes()).unwrap();
                }
                0
            });
            for n in 0..100u32 {
                init.write_fd(ping_write, &n.to_le_bytes()).unwrap();
                assert_eq!(init.read_fd(pong_read, 4).unwrap(), n.to_le_bytes());
            }
            assert_eq!(init.wait_for(child).exit_code(), Some(0));
        });
    }
}
