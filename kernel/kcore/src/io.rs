//! Where bytes of a read go to and where bytes of a write come from: user memory described by an iovec array, or a
//! kernel buffer. File code works on these and never sees a raw pointer.

use alloc::vec::Vec;

use abi::Errno;
use hal::mem::Pfn;
use hal::uaccess;

use crate::Result;

/// One run of user memory.
#[derive(Clone, Copy, Debug)]
pub struct UserRun {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub length: usize,
}

enum Runs<'a> {
    /// One run of user memory from this address on, the common case: what is left of it is `remaining`.
    One(u64),
    Many(Vec<UserRun>, usize),
    Kernel(&'a mut [u8]),
    KernelConst(&'a [u8]),
}

impl Runs<'_> {
    fn current_user(&mut self) -> Option<&mut UserRun> {
        match self {
            Runs::Many(runs, at) => {
                while runs.get(*at).is_some_and(|run| run.length == 0) {
                    *at += 1;
                }
                runs.get_mut(*at)
            }
            _ => None,
        }
    }
}

/// The destination of a read.
pub struct IoDst<'a> {
    runs: Runs<'a>,
    remaining: usize,
    /// RWF_NOWAIT: `EAGAIN` instead of waiting.
    nowait: bool,
}

/// The source of a write.
pub struct IoSrc<'a> {
    runs: Runs<'a>,
    remaining: usize,
    /// RWF_NOWAIT: `EAGAIN` instead of waiting.
    nowait: bool,
    /// RWF_APPEND: at the end, wherever that is.
    append: bool,
}

fn total(runs: &[UserRun]) -> usize {
    runs.iter().fold(0usize, |sum, run| sum.saturating_add(run.length))
}

impl<'a> IoDst<'a> {
    /// User memory, one run.
    pub fn user(address: u64, length: usize) -> Self {
        Self { runs: Runs::One(address), remaining: length, nowait: false }
    }

    /// User memory, an iovec array.
    pub fn user_vector(runs: Vec<UserRun>) -> Self {
        let remaining = total(&runs);
        Self { runs: Runs::Many(runs, 0), remaining, nowait: false }
    }

    /// A kernel buffer.
    pub fn kernel(buffer: &'a mut [u8]) -> Self {
        let remaining = buffer.len();
        Self { runs: Runs::Kernel(buffer), remaining, nowait: false }
    }

    /// The read is not to wait.
    pub fn set_nowait(&mut self) {
        self.nowait = true;
    }

    /// Whether the read is not to wait.
    #[inline(always)]
    pub fn is_nowait(&self) -> bool {
        self.nowait
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Leaves at most `length` bytes.
    pub fn limit(&mut self, length: usize) {
        self.remaining = self.remaining.min(length);
    }

    /// Stores up to `bytes.len()` bytes. Returns how many went in; `EFAULT` only if none did for a bad address.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        self.each(bytes.len(), |dst, done, n| match dst {
            Target::User(address) => uaccess::copy_to_user(address, &bytes[done..done + n]).map_err(|e| e.done),
            Target::Kernel(slice) => {
                slice.copy_from_slice(&bytes[done..done + n]);
                Ok(())
            }
        })
    }

    /// Stores bytes of a frame. `offset + length` must not pass its end.
    pub fn put_frame(&mut self, pfn: Pfn, offset: usize, length: usize) -> Result<usize> {
        self.each(length, |dst, done, n| match dst {
            Target::User(address) => uaccess::copy_frame_to_user(address, pfn, offset + done, n).map_err(|e| e.done),
            Target::Kernel(slice) => {
                hal::mem::read(pfn, offset + done, slice);
                Ok(())
            }
        })
    }

    /// Stores zeros.
    pub fn put_zeros(&mut self, length: usize) -> Result<usize> {
        self.each(length, |dst, _, n| match dst {
            Target::User(address) => uaccess::clear_user(address, n).map_err(|e| e.done),
            Target::Kernel(slice) => {
                slice.fill(0);
                Ok(())
            }
        })
    }

    /// Runs `step(target, done, n)` over the runs; a step's error carries the bytes it did before the bad address.
    #[inline(always)]
    fn each(
        &mut self,
        length: usize,
        mut step: impl FnMut(Target<'_>, usize, usize) -> core::result::Result<(), usize>,
    ) -> Result<usize> {
        if let Runs::One(address) = &mut self.runs {
            let n = length.min(self.remaining);
            let outcome = step(Target::User(*address), 0, n);
            let moved = outcome.err().unwrap_or(n);
            // An address that nothing looked at (/dev/null) may be anything.
            *address = address.wrapping_add(moved as u64);
            self.remaining -= moved;
            return if moved == 0 && outcome.is_err() { Err(Errno::EFAULT) } else { Ok(moved) };
        }
        let mut done = 0;
        while done < length && self.remaining > 0 {
            let want = (length - done).min(self.remaining);
            let (n, outcome) = if let Runs::Kernel(slice) = &mut self.runs {
                let n = want.min(slice.len());
                let (head, tail) = core::mem::take(slice).split_at_mut(n);
                let outcome = step(Target::Kernel(head), done, n);
                *slice = tail;
                (n, outcome)
            } else {
                let Some(run) = self.runs.current_user() else { break };
                let n = want.min(run.length);
                let outcome = step(Target::User(run.address), done, n);
                let moved = outcome.err().unwrap_or(n);
                run.address = run.address.wrapping_add(moved as u64);
                run.length -= moved;
                (n, outcome)
            };
            let moved = outcome.err().unwrap_or(n);
            done += moved;
            self.remaining -= moved;
            if outcome.is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
            }
        }
        Ok(done)
    }
}

enum Target<'a> {
    User(u64),
    Kernel(&'a mut [u8]),
}

enum Origin<'a> {
    User(u64),
    Kernel(&'a [u8]),
}

impl<'a> IoSrc<'a> {
    /// User memory, one run.
    pub fn user(address: u64, length: usize) -> Self {
        Self { runs: Runs::One(address), remaining: length, nowait: false, append: false }
    }

    /// User memory, an iovec array.
    pub fn user_vector(runs: Vec<UserRun>) -> Self {
        let remaining = total(&runs);
        Self { runs: Runs::Many(runs, 0), remaining, nowait: false, append: false }
    }

    /// A kernel buffer.
    pub fn kernel(buffer: &'a [u8]) -> Self {
        Self { runs: Runs::KernelConst(buffer), remaining: buffer.len(), nowait: false, append: false }
    }

    /// The write is not to wait, or goes to the end of the file.
    pub fn set_modes(&mut self, nowait: bool, append: bool) {
        (self.nowait, self.append) = (nowait, append);
    }

    /// Whether the write is not to wait.
    #[inline(always)]
    pub fn is_nowait(&self) -> bool {
        self.nowait
    }

    /// Whether the write goes to the end of the file.
    #[inline(always)]
    pub fn is_append(&self) -> bool {
        self.append
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Leaves at most `length` bytes.
    pub fn limit(&mut self, length: usize) {
        self.remaining = self.remaining.min(length);
    }

    /// Takes up to `buffer.len()` bytes. Returns how many came; `EFAULT` only if none did for a bad address.
    pub fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = buffer.len();
        self.each(length, |src, done, n| match src {
            Origin::User(address) => uaccess::copy_from_user(&mut buffer[done..done + n], address).map_err(|e| e.done),
            Origin::Kernel(slice) => {
                buffer[done..done + n].copy_from_slice(slice);
                Ok(())
            }
        })
    }

    /// Takes bytes straight into a frame. `offset + length` must not pass its end.
    pub fn take_into_frame(&mut self, pfn: Pfn, offset: usize, length: usize) -> Result<usize> {
        self.each(length, |src, done, n| match src {
            Origin::User(address) => uaccess::copy_user_to_frame(pfn, offset + done, address, n).map_err(|e| e.done),
            Origin::Kernel(slice) => {
                hal::mem::write(pfn, offset + done, slice);
                Ok(())
            }
        })
    }

    /// Drops up to `length` bytes unread, as `/dev/null` does. Returns how many.
    pub fn skip(&mut self, length: usize) -> usize {
        self.each(length, |_, _, _| Ok(())).unwrap_or(0)
    }

    #[inline(always)]
    fn each(
        &mut self,
        length: usize,
        mut step: impl FnMut(Origin<'_>, usize, usize) -> core::result::Result<(), usize>,
    ) -> Result<usize> {
        if let Runs::One(address) = &mut self.runs {
            let n = length.min(self.remaining);
            let outcome = step(Origin::User(*address), 0, n);
            let moved = outcome.err().unwrap_or(n);
            // An address that nothing looked at (/dev/null) may be anything.
            *address = address.wrapping_add(moved as u64);
            self.remaining -= moved;
            return if moved == 0 && outcome.is_err() { Err(Errno::EFAULT) } else { Ok(moved) };
        }
        let mut done = 0;
        while done < length && self.remaining > 0 {
            let want = (length - done).min(self.remaining);
            let (n, outcome) = if let Runs::KernelConst(slice) = &mut self.runs {
                let n = want.min(slice.len());
                let (head, tail) = slice.split_at(n);
                *slice = tail;
                (n, step(Origin::Kernel(head), done, n))
            } else {
                let Some(run) = self.runs.current_user() else { break };
                let n = want.min(run.length);
                let outcome = step(Origin::User(run.address), done, n);
                let moved = outcome.err().unwrap_or(n);
                run.address = run.address.wrapping_add(moved as u64);
                run.length -= moved;
                (n, outcome)
            };
            let moved = outcome.err().unwrap_or(n);
            done += moved;
            self.remaining -= moved;
            if outcome.is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::{IoDst, IoSrc};

    #[test]
    fn a_kernel_destination_takes_what_fits() {
        let mut buffer = [0u8; 4];
        let mut dst = IoDst::kernel(&mut buffer);
        assert_eq!(dst.put(b"ab"), Ok(2));
        assert_eq!(dst.put(b"cdef"), Ok(2));
        assert_eq!(dst.remaining(), 0);
        assert_eq!(&buffer, b"abcd");
    }

    #[test]
    fn a_kernel_source_gives_what_it_has() {
        let mut src = IoSrc::kernel(b"hello");
        let mut two = [0u8; 2];
        assert_eq!(src.take(&mut two), Ok(2));
        assert_eq!(src.skip(100), 3);
        assert_eq!(src.take(&mut two), Ok(0));
    }
}
