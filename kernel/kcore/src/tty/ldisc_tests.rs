//! The line discipline against what Linux does, case by case.

use abi::tty as t;
use abi::tty::Termios;

use super::ldisc::{Flush, INPUT_BYTES, Ldisc, OUTPUT_BYTES};

fn terminal(change: impl FnOnce(&mut Termios)) -> Ldisc {
    let mut termios = Termios::STANDARD;
    change(&mut termios);
    Ldisc::new(termios)
}

fn standard() -> Ldisc {
    terminal(|_| {})
}

fn raw(minimum: u8, time: u8) -> Ldisc {
    terminal(|termios| {
        termios.c_iflag = 0;
        termios.c_oflag = 0;
        termios.c_lflag = 0;
        termios.c_cc[t::VMIN] = minimum;
        termios.c_cc[t::VTIME] = time;
    })
}

fn take_output(tty: &mut Ldisc) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let run = tty.output().to_vec();
        if run.is_empty() {
            return all;
        }
        tty.sent(run.len());
        all.extend(run);
    }
}

fn read(tty: &mut Ldisc, limit: usize) -> Option<Vec<u8>> {
    let mut buffer = vec![0; limit];
    let piece = tty.read(&mut buffer)?;
    buffer.truncate(piece.length);
    Some(buffer)
}

fn type_and_echo(tty: &mut Ldisc, text: &[u8]) -> Vec<u8> {
    assert_eq!(tty.receive(text), text.len());
    take_output(tty)
}

#[test]
fn a_line_is_read_when_it_is_complete() {
    let mut tty = standard();
    assert_eq!(type_and_echo(&mut tty, b"ls"), b"ls");
    assert_eq!(read(&mut tty, 100), None);
    assert_eq!(type_and_echo(&mut tty, b"\r"), b"\r\n");
    assert_eq!(read(&mut tty, 100), Some(b"ls\n".to_vec()));
    assert_eq!(read(&mut tty, 100), None);
}

#[test]
fn a_read_gives_one_line_and_a_short_read_leaves_the_rest() {
    let mut tty = standard();
    tty.receive(b"one\ntwo\n");
    assert_eq!(read(&mut tty, 2), Some(b"on".to_vec()));
    assert_eq!(tty.readable_bytes(), 6);
    assert_eq!(read(&mut tty, 100), Some(b"e\n".to_vec()));
    assert_eq!(read(&mut tty, 100), Some(b"two\n".to_vec()));
}

#[test]
fn a_read_of_exactly_the_bytes_before_the_newline_leaves_the_newline() {
    let mut tty = standard();
    tty.receive(b"abc\n");
    assert_eq!(read(&mut tty, 3), Some(b"abc".to_vec()));
    assert_eq!(read(&mut tty, 3), Some(b"\n".to_vec()));
}

#[test]
fn end_of_file_alone_is_a_read_of_nothing() {
    let mut tty = standard();
    assert_eq!(type_and_echo(&mut tty, b"\x04"), b"");
    assert!(tty.is_readable());
    assert_eq!(tty.readable_bytes(), 0);
    assert_eq!(read(&mut tty, 10), Some(vec![]));
    assert_eq!(read(&mut tty, 10), None);
}

#[test]
fn end_of_file_after_text_ends_the_line_without_a_byte() {
    let mut tty = standard();
    tty.receive(b"abc\x04");
    assert_eq!(read(&mut tty, 3), Some(b"abc".to_vec()));
    assert_eq!(read(&mut tty, 3), None);
    tty.receive(b"abcd\x04");
    assert_eq!(read(&mut tty, 2), Some(b"ab".to_vec()));
    assert_eq!(read(&mut tty, 10), Some(b"cd".to_vec()));
    assert_eq!(read(&mut tty, 10), None);
}

#[test]
fn erase_removes_a_character_and_shows_it() {
    let mut tty = standard();
    assert_eq!(type_and_echo(&mut tty, b"ab\x7f"), b"ab\x08 \x08");
    assert_eq!(type_and_echo(&mut tty, b"\x7f\x7f\x7f"), b"\x08 \x08");
    tty.receive(b"x\n");
    assert_eq!(read(&mut tty, 10), Some(b"x\n".to_vec()));
}

#[test]
fn erase_of_a_control_character_removes_both_columns() {
    let mut tty = standard();
    assert_eq!(type_and_echo(&mut tty, b"\x16\x01"), b"^\x08^A");
    assert_eq!(type_and_echo(&mut tty, b"\x7f"), b"\x08 \x08\x08 \x08");
}

#[test]
fn erase_without_echoe_shows_the_erase_character() {
    let mut tty = terminal(|termios| termios.c_lflag &= !t::ECHOE);
    assert_eq!(type_and_echo(&mut tty, b"a\x7f"), b"a^?");
}

#[test]
fn erase_of_a_tab_moves_back_to_where_it_began() {
    let mut tty = standard();
    tty.write(b"$ ");
    assert_eq!(take_output(&mut tty), b"$ ");
    assert_eq!(type_and_echo(&mut tty, b"ab\t"), b"ab\t");
    assert_eq!(type_and_echo(&mut tty, b"\x7f"), b"\x08\x08\x08\x08");
    assert_eq!(type_and_echo(&mut tty, b"\t\t\x7f"), b"\t\t\x08\x08\x08\x08\x08\x08\x08\x08");
}

#[test]
fn erase_removes_a_whole_utf8_character() {
    let mut tty = terminal(|termios| termios.c_iflag |= t::IUTF8);
    assert_eq!(type_and_echo(&mut tty, "aé".as_bytes()), "aé".as_bytes());
    assert_eq!(type_and_echo(&mut tty, b"\x7f"), b"\x08 \x08");
    tty.receive(b"\n");
    assert_eq!(read(&mut tty, 10), Some(b"a\n".to_vec()));
    let mut bytes = standard();
    bytes.receive("é\x7f\n".as_bytes());
    assert_eq!(read(&mut bytes, 10), Some(b"\xc3\n".to_vec()));
}

#[test]
fn word_erase_takes_the_word_and_the_space_behind_it() {
    let mut tty = standard();
    type_and_echo(&mut tty, b"one two_2 , ");
    let echo = type_and_echo(&mut tty, b"\x17");
    assert_eq!(echo.len(), 3 * 8);
    tty.receive(b"\n");
    assert_eq!(read(&mut tty, 100), Some(b"one \n".to_vec()));
}

#[test]
fn kill_erases_the_line_by_columns_with_echoke() {
    let mut tty = standard();
    type_and_echo(&mut tty, b"abc");
    assert_eq!(type_and_echo(&mut tty, b"\x15"), b"\x08 \x08\x08 \x08\x08 \x08");
    tty.receive(b"x\n");
    assert_eq!(read(&mut tty, 100), Some(b"x\n".to_vec()));
}

#[test]
fn kill_without_echoke_starts_a_new_line_with_echok() {
    let mut tty = terminal(|termios| termios.c_lflag &= !t::ECHOKE);
    assert_eq!(type_and_echo(&mut tty, b"ab\x15"), b"ab^U\r\n");
    let mut tty = terminal(|termios| termios.c_lflag &= !(t::ECHOKE | t::ECHOK));
    assert_eq!(type_and_echo(&mut tty, b"ab\x15"), b"ab^U");
}

#[test]
fn echoprt_prints_what_is_erased_between_slashes() {
    let mut tty = terminal(|termios| termios.c_lflag |= t::ECHOPRT);
    assert_eq!(type_and_echo(&mut tty, b"abc\x7f\x7fx"), b"abc\\cb/x");
    assert_eq!(type_and_echo(&mut tty, b"\x7f\x7f"), b"\\xa/");
}

#[test]
fn without_echo_nothing_is_shown_but_the_newline_with_echonl() {
    let mut tty = terminal(|termios| termios.c_lflag &= !t::ECHO);
    assert_eq!(type_and_echo(&mut tty, b"secret\x7f\x15\n"), b"");
    let mut tty = terminal(|termios| termios.c_lflag = (termios.c_lflag & !t::ECHO) | t::ECHONL);
    assert_eq!(type_and_echo(&mut tty, b"secret\n"), b"\r\n");
}

#[test]
fn control_characters_are_echoed_with_a_caret() {
    let mut tty = standard();
    assert_eq!(type_and_echo(&mut tty, b"\x01\x1b\t"), b"^A^[\t");
    let mut tty = terminal(|termios| termios.c_lflag &= !t::ECHOCTL);
    assert_eq!(type_and_echo(&mut tty, b"\x01"), b"\x01");
}

#[test]
fn literal_next_takes_the_meaning_away() {
    let mut tty = standard();
    tty.receive(b"\x16\x03\x16\x04\x16\n\n");
    assert_eq!(tty.take_signals(), 0);
    assert_eq!(read(&mut tty, 100), Some(b"\x03\x04\n\n".to_vec()));
    let mut tty = terminal(|termios| termios.c_lflag &= !t::IEXTEN);
    tty.receive(b"\x16\n");
    assert_eq!(read(&mut tty, 100), Some(b"\x16\n".to_vec()));
}

#[test]
fn reprint_shows_the_line_again() {
    let mut tty = standard();
    assert_eq!(type_and_echo(&mut tty, b"done\nabc\x12"), b"done\r\nabc^R\r\nabc");
}

#[test]
fn interrupt_raises_a_signal_and_throws_the_queues_away() {
    let mut tty = standard();
    tty.receive(b"half a line");
    tty.write(b"output");
    tty.receive(b"\x03");
    assert_eq!(tty.take_signals(), 1 << abi::signal::SIGINT);
    assert_eq!(take_output(&mut tty), b"^C");
    tty.receive(b"\n");
    assert_eq!(read(&mut tty, 100), Some(b"\n".to_vec()));
}

#[test]
fn noflsh_keeps_the_queues() {
    let mut tty = terminal(|termios| termios.c_lflag |= t::NOFLSH);
    assert_eq!(type_and_echo(&mut tty, b"ab\x1c\x1a\n"), b"ab^\\^Z\r\n");
    assert_eq!(tty.take_signals(), 1 << abi::signal::SIGQUIT | 1 << abi::signal::SIGTSTP);
    assert_eq!(read(&mut tty, 100), Some(b"ab\n".to_vec()));
}

#[test]
fn without_isig_the_characters_are_data() {
    let mut tty = terminal(|termios| termios.c_lflag &= !t::ISIG);
    tty.receive(b"\x03\n");
    assert_eq!(tty.take_signals(), 0);
    assert_eq!(read(&mut tty, 100), Some(b"\x03\n".to_vec()));
}

#[test]
fn a_disabled_special_character_is_data() {
    let mut tty = terminal(|termios| termios.c_cc[t::VINTR] = 0);
    tty.receive(b"\x03\0\n");
    assert_eq!(tty.take_signals(), 0);
    assert_eq!(read(&mut tty, 100), Some(b"\x03\0\n".to_vec()));
}

#[test]
fn stop_holds_output_until_start() {
    let mut tty = standard();
    tty.receive(b"\x13");
    assert_eq!(tty.write(b"x"), 1);
    assert_eq!(take_output(&mut tty), b"");
    tty.receive(b"a");
    assert_eq!(take_output(&mut tty), b"");
    tty.receive(b"\x11");
    assert_eq!(take_output(&mut tty), b"xa");
}

#[test]
fn ixany_starts_output_with_any_character() {
    let mut tty = terminal(|termios| termios.c_iflag |= t::IXANY);
    tty.receive(b"\x13");
    tty.write(b"x");
    tty.receive(b"a");
    assert_eq!(take_output(&mut tty), b"xa");
}

#[test]
fn an_interrupt_starts_stopped_output() {
    let mut tty = standard();
    tty.receive(b"\x13\x03");
    assert_eq!(take_output(&mut tty), b"^C");
}

#[test]
fn clearing_ixon_starts_stopped_output() {
    let mut tty = standard();
    tty.receive(b"\x13");
    tty.write(b"x");
    let mut termios = *tty.termios();
    termios.c_iflag &= !t::IXON;
    tty.set_termios(termios);
    assert_eq!(take_output(&mut tty), b"x");
}

#[test]
fn carriage_returns_and_newlines_are_translated() {
    let mut tty = terminal(|termios| termios.c_iflag = t::IGNCR);
    tty.receive(b"a\rb\n");
    assert_eq!(read(&mut tty, 10), Some(b"ab\n".to_vec()));
    let mut tty = terminal(|termios| {
        termios.c_iflag = t::INLCR;
        termios.c_lflag &= !t::ICANON;
    });
    tty.receive(b"a\n");
    assert_eq!(read(&mut tty, 10), Some(b"a\r".to_vec()));
    let mut tty = terminal(|termios| termios.c_iflag = 0);
    tty.receive(b"a\rb\n");
    assert_eq!(read(&mut tty, 10), Some(b"a\rb\n".to_vec()));
}

#[test]
fn istrip_and_iuclc_change_bytes() {
    let mut tty = terminal(|termios| termios.c_iflag |= t::ISTRIP | t::IUCLC);
    tty.receive(b"A\xe2\n");
    assert_eq!(read(&mut tty, 10), Some(b"ab\n".to_vec()));
}

#[test]
fn parmrk_doubles_a_byte_that_would_look_like_a_mark() {
    let mut tty = terminal(|termios| termios.c_iflag |= t::PARMRK);
    tty.receive(b"\xff\n");
    assert_eq!(read(&mut tty, 10), Some(b"\xff\xff\n".to_vec()));
}

#[test]
fn a_break_is_a_signal_a_mark_or_a_nul() {
    let mut tty = terminal(|termios| termios.c_iflag |= t::BRKINT);
    tty.receive_break();
    assert_eq!(tty.take_signals(), 1 << abi::signal::SIGINT);
    let mut tty = raw(1, 0);
    tty.receive_break();
    assert_eq!(read(&mut tty, 10), Some(vec![0]));
    let mut tty = terminal(|termios| {
        termios.c_iflag = t::PARMRK;
        termios.c_lflag = 0;
    });
    tty.receive_break();
    assert_eq!(read(&mut tty, 10), Some(vec![0xff, 0, 0]));
    let mut tty = terminal(|termios| termios.c_iflag |= t::IGNBRK);
    tty.receive_break();
    assert!(!tty.is_readable());
}

#[test]
fn raw_input_is_readable_at_once_and_unchanged() {
    let mut tty = raw(1, 0);
    tty.receive(b"\x03\r\x7f\x04");
    assert_eq!(tty.readable_bytes(), 4);
    assert_eq!(read(&mut tty, 2), Some(b"\x03\r".to_vec()));
    assert_eq!(read(&mut tty, 10), Some(b"\x7f\x04".to_vec()));
    assert_eq!(take_output(&mut tty), b"");
}

#[test]
fn poll_waits_for_vmin_bytes_without_vtime() {
    let mut tty = raw(3, 0);
    tty.receive(b"ab");
    assert!(tty.is_readable() && !tty.is_readable_for_poll());
    tty.receive(b"c");
    assert!(tty.is_readable_for_poll());
    let mut tty = raw(3, 1);
    tty.receive(b"a");
    assert!(tty.is_readable_for_poll());
}

#[test]
fn leaving_canonical_mode_makes_the_unfinished_line_readable() {
    let mut tty = standard();
    tty.receive(b"half");
    assert!(!tty.is_readable());
    let mut termios = *tty.termios();
    termios.c_lflag &= !t::ICANON;
    tty.set_termios(termios);
    assert_eq!(read(&mut tty, 10), Some(b"half".to_vec()));
}

#[test]
fn entering_canonical_mode_makes_what_is_there_a_line() {
    let mut tty = raw(1, 0);
    tty.receive(b"abc");
    tty.set_termios(Termios::STANDARD);
    assert_eq!(read(&mut tty, 10), Some(b"abc".to_vec()));
    tty.receive(b"x\n");
    assert_eq!(read(&mut tty, 10), Some(b"x\n".to_vec()));
}

#[test]
fn eol_characters_end_a_line_and_are_part_of_it() {
    let mut tty = terminal(|termios| {
        termios.c_cc[t::VEOL] = b';';
        termios.c_cc[t::VEOL2] = b'!';
    });
    tty.receive(b"a;b!");
    assert_eq!(read(&mut tty, 10), Some(b"a;".to_vec()));
    assert_eq!(read(&mut tty, 10), Some(b"b!".to_vec()));
}

#[test]
fn a_line_longer_than_the_buffer_keeps_its_beginning_and_its_end() {
    let mut tty = standard();
    let long = vec![b'x'; 5000];
    assert_eq!(tty.receive(&long), 5000);
    assert_eq!(tty.receive(b"\n"), 1);
    let line = read(&mut tty, 8192).unwrap();
    assert_eq!(line.len(), INPUT_BYTES);
    assert_eq!(line.last(), Some(&b'\n'));
    assert!(line[..INPUT_BYTES - 1].iter().all(|byte| *byte == b'x'));
}

#[test]
fn complete_lines_are_never_overwritten() {
    let mut tty = terminal(|termios| termios.c_lflag &= !t::ECHO);
    let text: Vec<u8> = (0..2000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    let (mut given, mut got) = (0, Vec::new());
    while got.len() < text.len() {
        given += tty.receive(&text[given..]);
        while let Some(line) = read(&mut tty, 64) {
            assert_eq!(line.last(), Some(&b'\n'));
            got.extend(line);
        }
    }
    assert_eq!(got, text);
}

#[test]
fn a_full_raw_buffer_takes_no_more_until_it_is_read() {
    let mut tty = raw(1, 0);
    let taken = tty.receive(&[b'x'; 10_000]);
    assert_eq!(taken, INPUT_BYTES - 1);
    assert!(!tty.has_room());
    assert_eq!(read(&mut tty, 100).map(|bytes| bytes.len()), Some(100));
    assert_eq!(tty.receive(&[b'y'; 200]), 100);
}

#[test]
fn output_processing_turns_newlines_into_two_bytes() {
    let mut tty = standard();
    assert_eq!(tty.write(b"a\nb"), 3);
    assert_eq!(take_output(&mut tty), b"a\r\nb");
    let mut tty = terminal(|termios| termios.c_oflag = 0);
    tty.write(b"a\nb\t");
    assert_eq!(take_output(&mut tty), b"a\nb\t");
}

#[test]
fn output_flags_change_what_is_sent() {
    let sent = |flags: u32, text: &[u8]| {
        let mut tty = terminal(|termios| termios.c_oflag = t::OPOST | flags);
        tty.write(text);
        take_output(&mut tty)
    };
    assert_eq!(sent(t::OCRNL, b"a\rb"), b"a\nb");
    assert_eq!(sent(t::ONOCR, b"\ra\r\r"), b"a\r");
    assert_eq!(sent(t::XTABS, b"ab\tc"), b"ab      c");
    assert_eq!(sent(t::OLCUC, b"ab"), b"AB");
    assert_eq!(sent(t::ONLCR | t::XTABS, b"abc\n\t"), b"abc\r\n        ");
    assert_eq!(sent(t::ONLRET | t::XTABS, b"abc\n\t"), b"abc\n        ");
}

#[test]
fn output_stops_at_its_limit_and_goes_on_when_sent() {
    let mut tty = standard();
    let taken = tty.write(&vec![b'x'; OUTPUT_BYTES + 100]);
    assert_eq!(taken, OUTPUT_BYTES);
    assert_eq!(tty.write_room(), 0);
    tty.sent(10);
    assert_eq!(tty.write(b"more than ten bytes"), 10);
}

#[test]
fn flushing_empties_one_queue() {
    let mut tty = standard();
    tty.receive(b"a\nb");
    tty.flush(Flush::Input);
    assert!(!tty.is_readable());
    assert_eq!(take_output(&mut tty), b"a\r\nb");
    tty.write(b"x");
    tty.flush(Flush::Output);
    assert_eq!(tty.output_waiting(), 0);
}

#[test]
fn echoes_do_not_grow_without_bound() {
    let mut tty = standard();
    tty.receive(b"\x13");
    for _ in 0..100_000 {
        tty.receive(b"a\x7f");
    }
    assert!(tty.output_waiting() <= 3 * OUTPUT_BYTES);
}

#[test]
fn random_input_never_breaks_the_state() {
    // A small generator: the case is repeatable.
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u32
    };
    let mut tty = standard();
    for _ in 0..200_000 {
        match next() % 16 {
            0 => {
                let mut termios = Termios::STANDARD;
                termios.c_iflag = next() & 0o77777;
                termios.c_oflag = next() & 0o14077;
                termios.c_lflag = next() & 0o307777;
                tty.set_termios(termios);
            }
            1..=3 => {
                read(&mut tty, next() as usize % 100);
            }
            4 => tty.receive_break(),
            5 => {
                take_output(&mut tty);
            }
            _ => {
                let byte = next() as u8;
                tty.receive(&[byte & if next() % 2 == 0 { 0x1f } else { 0xff }]);
            }
        }
        assert!(tty.readable_bytes() <= INPUT_BYTES);
    }
}
