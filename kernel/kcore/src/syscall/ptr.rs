//! User pointers as types: an address that nobody has looked at yet. The only ways from here to data are the checked
//! copies of `hal::uaccess`; a bad address is `EFAULT`.

use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;

use abi::Errno;
use hal::uaccess;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::Result;

/// A user address that should point to a `T`.
pub struct UserPtr<T> {
    address: u64,
    _type: PhantomData<fn() -> T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// An allegation about `address`.
    pub const fn new(address: u64) -> Self {
        Self { address, _type: PhantomData }
    }

    /// The address as it came.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// NULL often means "not wanted".
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// `None` for NULL.
    pub fn non_null(self) -> Option<Self> {
        (self.address != 0).then_some(self)
    }

    /// The address of element `index` of an array. Wraps: a wrapped address faults when used.
    pub const fn index(self, index: usize) -> Self {
        Self::new(self.address.wrapping_add((index as u64).wrapping_mul(size_of::<T>() as u64)))
    }

    /// The same address with another type.
    pub const fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.address)
    }
}

impl<T: FromBytes + IntoBytes + FromZeros> UserPtr<T> {
    /// Copies the value in.
    #[inline]
    pub fn read(self) -> Result<T> {
        let mut value = T::new_zeroed();
        uaccess::copy_from_user(value.as_mut_bytes(), self.address).map_err(|_| Errno::EFAULT)?;
        Ok(value)
    }

    /// Copies `count` values in. The caller bounds `count`; the buffer is `ENOMEM` when it cannot be had.
    pub fn read_many(self, count: usize) -> Result<Vec<T>> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        values.resize_with(count, T::new_zeroed);
        let mut address = self.address;
        for value in &mut values {
            uaccess::copy_from_user(value.as_mut_bytes(), address).map_err(|_| Errno::EFAULT)?;
            address = address.wrapping_add(size_of::<T>() as u64);
        }
        Ok(values)
    }
}

impl<T: IntoBytes + Immutable> UserPtr<T> {
    /// Copies `value` out.
    #[inline]
    pub fn write(self, value: &T) -> Result<()> {
        uaccess::copy_to_user(self.address, value.as_bytes()).map_err(|_| Errno::EFAULT)
    }

    /// Copies `value` out unless the pointer is NULL.
    pub fn write_if_wanted(self, value: &T) -> Result<()> {
        if self.is_null() { Ok(()) } else { self.write(value) }
    }

    /// Copies an array out.
    pub fn write_many(self, values: &[T]) -> Result<()> {
        let mut address = self.address;
        for value in values {
            uaccess::copy_to_user(address, value.as_bytes()).map_err(|_| Errno::EFAULT)?;
            address = address.wrapping_add(size_of::<T>() as u64);
        }
        Ok(())
    }
}

/// A user address that should point to a NUL-terminated string.
#[derive(Clone, Copy)]
pub struct UserStr(u64);

impl UserStr {
    /// An allegation about `address`.
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The address as it came.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// NULL is a different thing from the empty string.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Copies the string without its NUL. `too_long` when there is none within `limit` bytes (NUL included).
    pub fn read(self, limit: usize, too_long: Errno) -> Result<Vec<u8>> {
        let mut buffer = [0u8; 256];
        let first = &mut buffer[..limit.min(256)];
        let length = uaccess::copy_string_from_user(first, self.0).map_err(|_| Errno::EFAULT)?;
        if length < first.len() {
            return Ok(buffer[..length].to_vec());
        }
        if limit <= 256 {
            return Err(too_long);
        }
        let mut long = vec![0u8; limit];
        let length = uaccess::copy_string_from_user(&mut long, self.0).map_err(|_| Errno::EFAULT)?;
        if length == limit {
            return Err(too_long);
        }
        long.truncate(length);
        Ok(long)
    }

    /// Copies a path name: at most PATH_MAX (4096) bytes with its NUL, else `ENAMETOOLONG`.
    pub fn read_path(self) -> Result<Vec<u8>> {
        self.read(4096, Errno::ENAMETOOLONG)
    }

    /// Copies a path name and lends it to `f`. Names up to 255 bytes, nearly all, do not touch the heap.
    #[inline]
    pub fn with_path<R>(self, f: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let with = |path: Option<&[u8]>| match path {
            Some(path) => f(path),
            None => f(&self.read_path()?),
        };
        uaccess::with_short_string(self.0, with).map_err(|_| Errno::EFAULT)?
    }

    /// Copies a path name into `buffer` and lends it out, for walks that must not allocate.
    pub fn read_path_into(self, buffer: &mut [u8; 4096]) -> Result<&[u8]> {
        let length = uaccess::copy_string_from_user(buffer, self.0).map_err(|_| Errno::EFAULT)?;
        if length == buffer.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(&buffer[..length])
    }
}
