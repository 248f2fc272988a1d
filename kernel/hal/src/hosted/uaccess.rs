//! User memory from the kernel's side: page by page through the simulated MMU, with injected failures.

use std::mem::MaybeUninit;

use super::context;
use super::cpu::charge;
use super::mmu::translate;
use super::ram::{read_frame, write_frame, zero_frames};
use super::state::state;
use crate::mem::{PAGE_SIZE, Pfn};
use crate::trap::Access;
use crate::uaccess::BadAddress;

/// A range of user addresses that the kernel cannot reach, whatever is mapped there.
#[derive(Clone, Copy)]
pub struct Injected {
    start: u64,
    end: u64,
}

/// Makes every kernel access to the `length` bytes from `address` fail after the first `n` bytes of the range.
pub fn fault_after(address: u64, length: u64, n: u64) {
    state().injected.borrow_mut().push(Injected { start: address + n.min(length), end: address + length });
}

/// Takes back every [`fault_after`].
pub fn clear_injected_faults() {
    state().injected.borrow_mut().clear();
}

/// How many bytes from `address` may be reached: 0 inside an injected range, else up to the next one.
fn reach(address: u64) -> u64 {
    let mut reach = u64::MAX;
    for range in state().injected.borrow().iter() {
        if (range.start..range.end).contains(&address) {
            return 0;
        }
        if address < range.start {
            reach = reach.min(range.start - address);
        }
    }
    reach
}

/// Finds the frame behind a user address, asking the kernel when it is not there.
fn resolve(address: u64, access: Access) -> Result<Pfn, ()> {
    for _ in 0..1000 {
        match translate(address, access) {
            Ok(pfn) => return Ok(pfn),
            Err(_) if context::has_current() && context::current().arch.faults_off.get() > 0 => return Err(()),
            Err(fault) => {
                if !(state().handlers().uaccess_fault)(fault) {
                    return Err(());
                }
            }
        }
    }
    panic!("uaccess_fault said a thousand times that {address:#x} can be reached");
}

/// Visits the frames behind `length` bytes at `address`: `visit(done, frame, offset, bytes)`.
fn each_piece(
    address: u64,
    length: usize,
    access: Access,
    mut visit: impl FnMut(usize, Pfn, usize, usize) -> bool,
) -> Result<(), BadAddress> {
    let mut done = 0;
    while done < length {
        let at = address.wrapping_add(done as u64);
        let offset = (at as usize) % PAGE_SIZE;
        let allowed = usize::try_from(reach(at)).unwrap_or(usize::MAX);
        let bytes = (PAGE_SIZE - offset).min(length - done).min(allowed);
        if bytes == 0 {
            return Err(BadAddress { done });
        }
        let pfn = resolve(at, access).map_err(|()| BadAddress { done })?;
        charge(20 + bytes as u64 / 8);
        if !visit(done, pfn, offset, bytes) {
            break;
        }
        done += bytes;
    }
    Ok(())
}

pub fn copy_from_user(to: &mut [u8], from: u64) -> Result<(), BadAddress> {
    each_piece(from, to.len(), Access::Read, |done, pfn, offset, bytes| {
        read_frame(pfn, offset, &mut to[done..done + bytes]);
        true
    })
}

pub fn copy_to_user(to: u64, from: &[u8]) -> Result<(), BadAddress> {
    each_piece(to, from.len(), Access::Write, |done, pfn, offset, bytes| {
        write_frame(pfn, offset, &from[done..done + bytes]);
        true
    })
}

pub fn clear_user(to: u64, length: usize) -> Result<(), BadAddress> {
    each_piece(to, length, Access::Write, |_, pfn, offset, bytes| {
        if bytes == PAGE_SIZE {
            zero_frames(pfn, 1);
        } else {
            write_frame(pfn, offset, &[0; PAGE_SIZE][..bytes]);
        }
        true
    })
}

pub fn copy_user_to_frame(to: Pfn, offset: usize, from: u64, length: usize) -> Result<(), BadAddress> {
    assert!(offset + length <= PAGE_SIZE, "access past the end of a frame");
    let mut buffer = [0; PAGE_SIZE];
    let result = copy_from_user(&mut buffer[..length], from);
    let done = result.map_or_else(|bad| bad.done, |()| length);
    write_frame(to, offset, &buffer[..done]);
    result
}

pub fn copy_frame_to_user(to: u64, from: Pfn, offset: usize, length: usize) -> Result<(), BadAddress> {
    assert!(offset + length <= PAGE_SIZE, "access past the end of a frame");
    let mut buffer = [0; PAGE_SIZE];
    read_frame(from, offset, &mut buffer[..length]);
    copy_to_user(to, &buffer[..length])
}

pub fn copy_string_to_uninit(to: &mut [MaybeUninit<u8>], from: u64) -> Result<usize, BadAddress> {
    let mut bytes = vec![0; to.len()];
    let length = copy_string_from_user(&mut bytes, from)?;
    for (place, byte) in to.iter_mut().zip(bytes) {
        place.write(byte);
    }
    Ok(length)
}

pub fn copy_string_from_user(to: &mut [u8], from: u64) -> Result<usize, BadAddress> {
    let mut length = to.len();
    let limit = to.len();
    each_piece(from, limit, Access::Read, |done, pfn, offset, bytes| {
        let piece = &mut to[done..done + bytes];
        read_frame(pfn, offset, piece);
        let nul = piece.iter().position(|byte| *byte == 0);
        if let Some(nul) = nul {
            length = done + nul;
        }
        nul.is_none()
    })?;
    Ok(length)
}

/// One aligned word in one access. A misaligned one faults on the Pi (exclusive accesses always do).
fn word<const N: usize>(address: u64, access: Access) -> Result<(Pfn, usize), BadAddress> {
    if !address.is_multiple_of(N as u64) || reach(address) < N as u64 {
        return Err(BadAddress { done: 0 });
    }
    charge(20);
    let pfn = resolve(address, access).map_err(|()| BadAddress { done: 0 })?;
    Ok((pfn, (address as usize) % PAGE_SIZE))
}

fn load<const N: usize>(from: u64) -> Result<[u8; N], BadAddress> {
    let (pfn, offset) = word::<N>(from, Access::Read)?;
    let mut bytes = [0; N];
    read_frame(pfn, offset, &mut bytes);
    Ok(bytes)
}

pub fn load_user_u32(from: u64) -> Result<u32, BadAddress> {
    load(from).map(u32::from_le_bytes)
}

pub fn load_user_u64(from: u64) -> Result<u64, BadAddress> {
    load(from).map(u64::from_le_bytes)
}

pub fn store_user_u32(to: u64, value: u32) -> Result<(), BadAddress> {
    let (pfn, offset) = word::<4>(to, Access::Write)?;
    write_frame(pfn, offset, &value.to_le_bytes());
    Ok(())
}

pub fn store_user_u64(to: u64, value: u64) -> Result<(), BadAddress> {
    let (pfn, offset) = word::<8>(to, Access::Write)?;
    write_frame(pfn, offset, &value.to_le_bytes());
    Ok(())
}

pub fn compare_exchange_user_u32(at: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
    let (pfn, offset) = word::<4>(at, Access::Write)?;
    let mut bytes = [0; 4];
    read_frame(pfn, offset, &mut bytes);
    let found = u32::from_le_bytes(bytes);
    if found == old {
        write_frame(pfn, offset, &new.to_le_bytes());
    }
    Ok(found)
}
