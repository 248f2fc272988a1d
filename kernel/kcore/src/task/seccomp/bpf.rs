//! Classic BPF for seccomp(2): the check that Linux makes before it takes a program (`bpf_check_classic`,
//! `seccomp_check_filter`), and the machine that runs it. A checked program ends: jumps go forward only, and its last
//! instruction returns.

use alloc::vec::Vec;

use abi::Errno;
use abi::process::SockFilter;

use crate::Result;

/// Longest program (Linux `BPF_MAXINSNS`).
pub const MAX_LENGTH: usize = 4096;
/// Words of scratch memory (Linux `BPF_MEMWORDS`).
const MEMORY_WORDS: u32 = 16;
/// Bytes of `struct seccomp_data`.
const DATA_SIZE: u32 = 64;

/// Instruction codes (Linux `bpf_common.h`): class, then size, mode, operation, source.
mod op {
    pub const LD: u16 = 0x00;
    pub const LDX: u16 = 0x01;
    pub const ST: u16 = 0x02;
    pub const STX: u16 = 0x03;
    pub const ALU: u16 = 0x04;
    pub const JMP: u16 = 0x05;
    pub const RET: u16 = 0x06;
    pub const MISC: u16 = 0x07;
    pub const IMM: u16 = 0x00;
    pub const ABS: u16 = 0x20;
    pub const MEM: u16 = 0x60;
    pub const LEN: u16 = 0x80;
    pub const ADD: u16 = 0x00;
    pub const SUB: u16 = 0x10;
    pub const MUL: u16 = 0x20;
    pub const DIV: u16 = 0x30;
    pub const OR: u16 = 0x40;
    pub const AND: u16 = 0x50;
    pub const LSH: u16 = 0x60;
    pub const RSH: u16 = 0x70;
    pub const NEG: u16 = 0x80;
    pub const XOR: u16 = 0xa0;
    pub const JA: u16 = 0x00;
    pub const JEQ: u16 = 0x10;
    pub const JGT: u16 = 0x20;
    pub const JGE: u16 = 0x30;
    pub const JSET: u16 = 0x40;
    pub const X: u16 = 0x08;
    pub const A: u16 = 0x10;
    pub const TAX: u16 = 0x00;
    pub const TXA: u16 = 0x80;
}

/// What an operand is.
#[derive(Clone, Copy, Debug)]
enum Source {
    Constant(u32),
    X,
}

/// Operations of the arithmetic unit.
#[derive(Clone, Copy, Debug)]
enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    ShiftLeft,
    ShiftRight,
    Xor,
}

/// Conditions of jumps.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

/// A checked instruction. Indexes of words and scratch places are within bounds.
#[derive(Clone, Copy, Debug)]
enum Instruction {
    /// A = word of the data.
    Load(usize),
    SetA(u32),
    SetX(u32),
    Recall(usize),
    RecallX(usize),
    Store(usize),
    StoreX(usize),
    Alu(Alu, Source),
    Negate,
    Jump(usize),
    Branch(Condition, Source, u8, u8),
    Return(u32),
    ReturnA,
    CopyToX,
    CopyFromX,
}

/// A checked program.
#[derive(Debug)]
pub struct Program {
    instructions: Vec<Instruction>,
    /// As the caller gave it, for PTRACE_SECCOMP_GET_FILTER.
    source: Vec<SockFilter>,
}

impl Program {
    /// Checks a program: `EINVAL` for an empty or too long one, an instruction that seccomp does not allow, a jump out of it,
    /// a place of scratch memory that may be read before it is written, and an end that is no return.
    pub fn check(code: &[SockFilter]) -> Result<Self> {
        if code.is_empty() || code.len() > MAX_LENGTH {
            return Err(Errno::EINVAL);
        }
        let mut instructions = Vec::new();
        instructions.try_reserve_exact(code.len()).map_err(|_| Errno::ENOMEM)?;
        for (at, raw) in code.iter().enumerate() {
            let instruction = decode(raw).ok_or(Errno::EINVAL)?;
            check_jumps(instruction, code.len() - at - 1)?;
            instructions.push(instruction);
        }
        if !matches!(instructions.last(), Some(Instruction::Return(_) | Instruction::ReturnA)) {
            return Err(Errno::EINVAL);
        }
        check_memory(&instructions)?;
        Ok(Self { instructions, source: copy(code)? })
    }

    /// A copy of the program as it was given.
    pub fn source(&self) -> Result<Vec<SockFilter>> {
        copy(&self.source)
    }

    /// Number of instructions.
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Never true: an empty program is refused.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// Runs it on the words of `struct seccomp_data`.
    pub fn run(&self, data: &[u32; DATA_SIZE as usize / 4]) -> u32 {
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; MEMORY_WORDS as usize];
        let mut at = 0;
        while let Some(instruction) = self.instructions.get(at) {
            at += 1;
            match *instruction {
                Instruction::Load(word) => a = data[word],
                Instruction::SetA(value) => a = value,
                Instruction::SetX(value) => x = value,
                Instruction::Recall(place) => a = memory[place],
                Instruction::RecallX(place) => x = memory[place],
                Instruction::Store(place) => memory[place] = a,
                Instruction::StoreX(place) => memory[place] = x,
                Instruction::Alu(operation, source) => match calculate(operation, a, operand(source, x)) {
                    Some(result) => a = result,
                    // A division by zero ends the program with 0, which kills (Linux `bpf_convert_filter`).
                    None => return 0,
                },
                Instruction::Negate => a = a.wrapping_neg(),
                Instruction::Jump(by) => at += by,
                Instruction::Branch(condition, source, yes, no) => {
                    at += usize::from(if holds(condition, a, operand(source, x)) { yes } else { no });
                }
                Instruction::Return(value) => return value,
                Instruction::ReturnA => return a,
                Instruction::CopyToX => x = a,
                Instruction::CopyFromX => a = x,
            }
        }
        // Not reached by a checked program.
        0
    }
}

fn operand(source: Source, x: u32) -> u32 {
    match source {
        Source::Constant(value) => value,
        Source::X => x,
    }
}

fn calculate(operation: Alu, a: u32, b: u32) -> Option<u32> {
    Some(match operation {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => return a.checked_div(b),
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::ShiftLeft => a.wrapping_shl(b),
        Alu::ShiftRight => a.wrapping_shr(b),
        Alu::Xor => a ^ b,
    })
}

fn holds(condition: Condition, a: u32, b: u32) -> bool {
    match condition {
        Condition::Equal => a == b,
        Condition::Greater => a > b,
        Condition::GreaterOrEqual => a >= b,
        Condition::AnyBit => a & b != 0,
    }
}

/// Decodes what `seccomp_check_filter` lets pass. Loads are of aligned words of the data.
fn decode(raw: &SockFilter) -> Option<Instruction> {
    const LD_ABS: u16 = op::LD | op::ABS;
    const LD_IMM: u16 = op::LD | op::IMM;
    const LD_LEN: u16 = op::LD | op::LEN;
    const LD_MEM: u16 = op::LD | op::MEM;
    const LDX_IMM: u16 = op::LDX | op::IMM;
    const LDX_LEN: u16 = op::LDX | op::LEN;
    const LDX_MEM: u16 = op::LDX | op::MEM;
    const RET_K: u16 = op::RET;
    const RET_A: u16 = op::RET | op::A;
    const TAX: u16 = op::MISC | op::TAX;
    const TXA: u16 = op::MISC | op::TXA;
    let place = || (raw.k < MEMORY_WORDS).then_some(raw.k as usize);
    Some(match raw.code {
        LD_ABS if raw.k < DATA_SIZE && raw.k.is_multiple_of(4) => Instruction::Load(raw.k as usize / 4),
        LD_LEN => Instruction::SetA(DATA_SIZE),
        LDX_LEN => Instruction::SetX(DATA_SIZE),
        LD_IMM => Instruction::SetA(raw.k),
        LDX_IMM => Instruction::SetX(raw.k),
        LD_MEM => Instruction::Recall(place()?),
        LDX_MEM => Instruction::RecallX(place()?),
        op::ST => Instruction::Store(place()?),
        op::STX => Instruction::StoreX(place()?),
        RET_K => Instruction::Return(raw.k),
        RET_A => Instruction::ReturnA,
        TAX => Instruction::CopyToX,
        TXA => Instruction::CopyFromX,
        code if code & 7 == op::ALU => return decode_alu(code, raw.k),
        code if code & 7 == op::JMP => return decode_jump(raw),
        _ => return None,
    })
}

fn source_of(code: u16, k: u32) -> Source {
    if code & op::X != 0 { Source::X } else { Source::Constant(k) }
}

fn decode_alu(code: u16, k: u32) -> Option<Instruction> {
    const NEGATE: u16 = op::ALU | op::NEG;
    if code == NEGATE {
        return Some(Instruction::Negate);
    }
    let is_constant = code & op::X == 0;
    let operation = match code & !(7 | op::X) {
        op::ADD => Alu::Add,
        op::SUB => Alu::Sub,
        op::MUL => Alu::Mul,
        // What would fail at every run is refused at once (Linux `bpf_check_classic`).
        op::DIV if is_constant && k == 0 => return None,
        op::DIV => Alu::Div,
        op::OR => Alu::Or,
        op::AND => Alu::And,
        op::LSH | op::RSH if is_constant && k >= 32 => return None,
        op::LSH => Alu::ShiftLeft,
        op::RSH => Alu::ShiftRight,
        op::XOR => Alu::Xor,
        _ => return None,
    };
    Some(Instruction::Alu(operation, source_of(code, k)))
}

fn decode_jump(raw: &SockFilter) -> Option<Instruction> {
    const ALWAYS: u16 = op::JMP | op::JA;
    if raw.code == ALWAYS {
        return Some(Instruction::Jump(raw.k as usize));
    }
    let condition = match raw.code & !(7 | op::X) {
        op::JEQ => Condition::Equal,
        op::JGT => Condition::Greater,
        op::JGE => Condition::GreaterOrEqual,
        op::JSET => Condition::AnyBit,
        _ => return None,
    };
    Some(Instruction::Branch(condition, source_of(raw.code, raw.k), raw.jt, raw.jf))
}

/// Jumps land on one of the `following` instructions.
fn copy(code: &[SockFilter]) -> Result<Vec<SockFilter>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(code.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(code);
    Ok(copy)
}

fn check_jumps(instruction: Instruction, following: usize) -> Result<()> {
    let inside = match instruction {
        Instruction::Jump(by) => by < following,
        Instruction::Branch(_, _, yes, no) => usize::from(yes.max(no)) < following,
        _ => true,
    };
    if inside { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Scratch memory is written on every way to where it is read (Linux `check_load_and_stores`).
fn check_memory(instructions: &[Instruction]) -> Result<()> {
    const ALL: u16 = u16::MAX;
    let mut arriving = Vec::new();
    arriving.try_reserve_exact(instructions.len()).map_err(|_| Errno::ENOMEM)?;
    arriving.resize(instructions.len(), ALL);
    let mut written = 0u16;
    for (at, instruction) in instructions.iter().enumerate() {
        written &= arriving[at];
        match *instruction {
            Instruction::Store(place) | Instruction::StoreX(place) => written |= 1 << place,
            Instruction::Recall(place) | Instruction::RecallX(place) if written & 1 << place == 0 => {
                return Err(Errno::EINVAL);
            }
            Instruction::Jump(by) => {
                arriving[at + 1 + by] &= written;
                written = ALL;
            }
            Instruction::Branch(_, _, yes, no) => {
                arriving[at + 1 + usize::from(yes)] &= written;
                arriving[at + 1 + usize::from(no)] &= written;
                written = ALL;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{MAX_LENGTH, Program};
    use abi::Errno;
    use abi::process::SockFilter;

    const fn i(code: u16, k: u32) -> SockFilter {
        SockFilter { code, jt: 0, jf: 0, k }
    }

    const fn j(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
        SockFilter { code, jt, jf, k }
    }

    const RET: u16 = 0x06;
    const RET_A: u16 = 0x16;
    const LD: u16 = 0x20;

    fn run(code: &[SockFilter]) -> u32 {
        let data = core::array::from_fn(|n| 100 + n as u32);
        Program::check(code).expect("a valid program").run(&data)
    }

    fn refused(code: &[SockFilter]) -> bool {
        Program::check(code).err() == Some(Errno::EINVAL)
    }

    #[test]
    fn words_of_the_data_are_loaded() {
        assert_eq!(run(&[i(LD, 0), i(RET_A, 0)]), 100);
        assert_eq!(run(&[i(LD, 60), i(RET_A, 0)]), 115);
        assert_eq!(run(&[i(0x80, 0), i(RET_A, 0)]), 64, "BPF_LEN");
        for bad in [i(LD, 64), i(LD, 2), i(0x28, 0), i(0x30, 0), i(0x40, 0), i(0xb1, 0)] {
            assert!(refused(&[bad, i(RET, 0)]), "{:#x} {}", bad.code, bad.k);
        }
    }

    #[test]
    fn arithmetic_is_that_of_32_bits() {
        for (code, k, result) in [
            (0x04u16, 5, 11),
            (0x14, 7, u32::MAX),
            (0x24, 3, 18),
            (0x34, 4, 1),
            (0x44, 9, 15),
            (0x54, 3, 2),
            (0x64, 31, 0),
            (0x74, 1, 3),
            (0xa4, 5, 3),
            (0x84, 0, 6u32.wrapping_neg()),
        ] {
            assert_eq!(run(&[i(0, 6), i(code, k), i(RET_A, 0)]), result, "{code:#x}");
            if code != 0x84 {
                assert_eq!(run(&[i(0, 6), i(1, k), i(code | 8, 0), i(RET_A, 0)]), result, "{code:#x} by X");
            }
        }
        assert_eq!(run(&[i(0, 6), i(1, 0), i(0x3c, 0), i(RET, 77)]), 0, "division by X = 0 returns 0");
        for bad in [i(0x34, 0), i(0x64, 32), i(0x74, 32), i(0x94, 1), i(0x9c, 0), i(0xb4, 1)] {
            assert!(refused(&[bad, i(RET, 0)]), "{:#x}", bad.code);
        }
    }

    #[test]
    fn jumps_go_forward_and_stay_inside() {
        assert_eq!(run(&[i(0, 5), j(0x15, 5, 1, 0), i(RET, 1), i(RET, 2)]), 2);
        assert_eq!(run(&[i(0, 5), j(0x25, 5, 1, 0), i(RET, 1), i(RET, 2)]), 1);
        assert_eq!(run(&[i(0, 5), j(0x35, 5, 1, 0), i(RET, 1), i(RET, 2)]), 2);
        assert_eq!(run(&[i(0, 5), j(0x45, 2, 1, 0), i(RET, 1), i(RET, 2)]), 1);
        assert_eq!(run(&[i(0x05, 1), i(RET, 1), i(RET, 2)]), 2);
        assert!(refused(&[i(0x05, 1), i(RET, 0)]));
        assert!(refused(&[i(0x05, u32::MAX), i(RET, 0)]));
        assert!(refused(&[j(0x15, 0, 1, 0), i(RET, 0)]));
        assert!(refused(&[j(0x15, 0, 0, 1), i(RET, 0)]));
    }

    #[test]
    fn scratch_memory_is_written_before_it_is_read() {
        assert_eq!(run(&[i(0, 9), i(0x02, 15), i(0, 1), i(0x60, 15), i(RET_A, 0)]), 9);
        assert_eq!(run(&[i(1, 9), i(0x03, 0), i(0x61, 0), i(0x87, 0), i(RET_A, 0)]), 9);
        assert!(refused(&[i(0x60, 0), i(RET, 0)]));
        assert!(refused(&[i(0x02, 16), i(RET, 0)]));
        assert!(refused(&[j(0x15, 0, 1, 0), i(0x02, 3), i(0x60, 3), i(RET, 0)]), "one way comes past the store");
        assert!(Program::check(&[j(0x15, 0, 1, 0), i(0x02, 3), i(0x02, 3), i(0x60, 3), i(RET, 0)]).is_ok());
    }

    #[test]
    fn a_program_ends_with_a_return() {
        assert!(refused(&[]));
        assert!(refused(&[i(0, 0)]));
        assert!(refused(&[i(RET, 0), i(0x05, 0)]));
        assert!(refused(&[i(0x0e, 0)]), "BPF_RET of X");
        assert!(Program::check(&vec![i(RET, 0); MAX_LENGTH]).is_ok());
        assert!(refused(&vec![i(RET, 0); MAX_LENGTH + 1]));
    }
}
