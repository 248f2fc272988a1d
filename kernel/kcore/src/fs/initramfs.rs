//! The initramfs: cpio archives in the "newc" format, unpacked into the root file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The buffer holds archives one after the other, with zeros between them; each may be gzip-compressed. File data of a
//! plain archive that lies on a page boundary becomes the page cache of its file in place; other data is copied. A broken
//! archive is an error with a text for the console, because nothing can be run without it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::stat as s;
use abi::time::Timespec;
use hal::mem::{self, FrameRange, PAGE_SIZE, Pfn};

use super::create::{self, Node};
use super::dentry::Dentry;
use super::inode::{Inode, NewNode};
use super::mount::{self, Path};
use super::namei::{Last, WalkContext, Walker, lookup, lookup_in};
use super::tmpfs;
use crate::io::IoSrc;
use crate::mm::mapping::Mapping;
use crate::task::Creds;

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A directory and a name that is free in it.
type NewName = (Arc<Dentry>, Vec<u8>);

/// The fields of a header that matter.
struct Entry {
    ino: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: u32,
    size: usize,
    dev: (u32, u32),
    rdev: (u32, u32),
    name_size: usize,
}

impl Entry {
    /// Decodes a header of 6 bytes of magic and 13 fields of 8 hexadecimal digits.
    fn parse(header: &[u8]) -> Result<Self, String> {
        match header.get(..6) {
            // 070702 is the same with a checksum, which Linux does not check either.
            Some(b"070701" | b"070702") => {}
            Some(b"070707") => return Err(String::from("incorrect cpio method used: use -H newc option")),
            _ => return Err(String::from("no cpio magic")),
        }
        let mut fields = [0u32; 13];
        for (field, digits) in fields.iter_mut().zip(header.get(6..HEADER).unwrap_or(&[]).chunks_exact(8)) {
            let text = core::str::from_utf8(digits).ok();
            let number = text.and_then(|text| u32::from_str_radix(text, 16).ok());
            *field = number.ok_or_else(|| String::from("bad digit in a cpio header"))?;
        }
        let [ino, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor, name_size, _check] = fields;
        Ok(Self {
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            size: size as usize,
            dev: (major, minor),
            rdev: (rmajor, rminor),
            name_size: name_size as usize,
        })
    }
}

/// Where the bytes of an archive are, for data that can be used in place.
#[derive(Clone, Copy)]
enum Home {
    /// Boot frames from this one on.
    Boot(FrameRange),
    /// A buffer that will be freed.
    Copy,
}

/// Unpacks the `length` bytes in `range` into the root of the initial namespace. Returns how many files there were.
pub fn unpack(range: FrameRange, length: usize) -> Result<usize, String> {
    let bytes = mem::boot_bytes(range, length);
    let root = mount::initial_namespace().root();
    let mut unpacker = Unpacker { creds: Creds::root(), root, links: BTreeMap::new(), files: 0, times: Vec::new() };
    unpacker.unpack_all(bytes, Home::Boot(range))?;
    if unpacker.files == 0 {
        return Err(String::from("junk: no cpio archive found"));
    }
    unpacker.set_dir_times();
    Ok(unpacker.files)
}

struct Unpacker {
    creds: Creds,
    root: Path,
    /// Files with several names, by device and inode number of the archive.
    links: BTreeMap<((u32, u32), u32), Arc<Dentry>>,
    files: usize,
    /// Directories get their times last: entering files changes them.
    times: Vec<(Arc<Inode>, u32)>,
}

impl Unpacker {
    fn unpack_all(&mut self, bytes: &'static [u8], home: Home) -> Result<(), String> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if rest.first() == Some(&0) {
                // Padding between archives.
                at += rest.iter().take_while(|byte| **byte == 0).count();
            } else if rest.starts_with(&GZIP_MAGIC) {
                let (data, used) = gunzip(rest)?;
                self.unpack_plain(&data)?;
                at += used;
            } else if rest.first() == Some(&b'0') {
                at += self.archive(bytes, at, home)?;
            } else {
                return Err(format!("junk at offset {at} of the archive"));
            }
        }
        Ok(())
    }

    /// Archives inside a decompressed buffer.
    fn unpack_plain(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match rest.first() {
                Some(0) => at += rest.iter().take_while(|byte| **byte == 0).count(),
                Some(b'0') => at += self.archive(bytes, at, Home::Copy)?,
                _ => return Err(format!("junk at offset {at} of the compressed archive")),
            }
        }
        Ok(())
    }

    /// One archive from `start` on. Returns its length.
    fn archive(&mut self, bytes: &[u8], start: usize, home: Home) -> Result<usize, String> {
        self.links.clear();
        let mut at = start;
        loop {
            let truncated = || format!("archive is truncated at offset {at}");
            let header = bytes.get(at..at + HEADER).ok_or_else(truncated)?;
            let entry = Entry::parse(header).map_err(|why| format!("{why} at offset {at}"))?;
            let name_at = at + HEADER;
            let name = bytes.get(name_at..name_at.saturating_add(entry.name_size)).ok_or_else(truncated)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
            let data_at = (name_at + entry.name_size - start).next_multiple_of(4) + start;
            let data = bytes.get(data_at..data_at.saturating_add(entry.size)).ok_or_else(truncated)?;
            at = (data_at + entry.size - start).next_multiple_of(4) + start;
            if name == TRAILER {
                return Ok(at.min(bytes.len()) - start);
            }
            let place = match home {
                Home::Boot(range) => Home::Boot(range_from(range, data_at)),
                Home::Copy => Home::Copy,
            };
            let in_place = data_at.is_multiple_of(PAGE_SIZE);
            self.enter(&entry, name, data, if in_place { place } else { Home::Copy })
                .map_err(|error| format!("{}: {error}", String::from_utf8_lossy(name)))?;
            self.files += 1;
        }
    }

    fn context(&self) -> WalkContext<'_> {
        WalkContext { root: self.root.clone().into(), base: self.root.clone().into(), creds: &self.creds, resolve: 0 }
    }

    /// Makes the file of one entry. What has the name already is replaced, unless both are directories.
    fn enter(&mut self, entry: &Entry, name: &[u8], data: &[u8], home: Home) -> Result<(), Errno> {
        let kind = entry.mode & s::S_IFMT;
        if matches!(name, b"." | b"/" | b"") {
            let root = self.root.dentry.inode().clone();
            root.set_permissions(entry.mode);
            root.set_owner(entry.uid, entry.gid);
            self.times.push((root, entry.mtime));
            return Ok(());
        }
        let Some((dir, last)) = self.prepare(name, kind)? else {
            return self.refresh_directory(entry, name);
        };
        let key = (entry.dev, entry.ino);
        if kind != s::S_IFDIR
            && entry.nlink > 1
            && let Some(first) = self.links.get(&key).cloned()
        {
            // The data of a file with several names comes with any one of them.
            if entry.size > 0 && kind == s::S_IFREG {
                write_data(first.inode(), data)?;
            }
            dir.inode().ops().link(dir.inode(), &last, first.inode())?;
            dir.attach(&last, first.inode().clone());
            return Ok(());
        }
        let node = Node {
            mode: entry.mode,
            rdev: s::makedev(entry.rdev.0, entry.rdev.1),
            target: if kind == s::S_IFLNK { data } else { b"" },
        };
        let dentry = if kind == s::S_IFREG {
            enter_regular(&dir, &last, entry, data, home)?
        } else {
            create::make_locked(&dir, &last, &node, &self.creds)?
        };
        let inode = dentry.inode();
        inode.set_owner(entry.uid, entry.gid);
        set_times(inode, entry.mtime);
        if kind == s::S_IFDIR {
            self.times.push((inode.clone(), entry.mtime));
        } else if entry.nlink > 1 {
            self.links.insert(key, dentry);
        }
        Ok(())
    }

    /// The directory and the last name of a path, with missing directories made and an old file of the name gone. `None`
    /// when a directory is there and a directory is wanted.
    fn prepare(&self, name: &[u8], kind: u32) -> Result<Option<NewName>, Errno> {
        let mut dir = self.root.dentry.clone();
        let mut parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
        while let Some(part) = parts.next() {
            let child = lookup_in(&dir, part)?;
            if parts.peek().is_some() {
                dir = match child {
                    Some(child) if child.inode().is_dir() => child,
                    Some(child) => self.follow(&dir, &child)?,
                    None => {
                        let node = Node { mode: s::S_IFDIR | 0o755, rdev: 0, target: b"" };
                        create::make_locked(&dir, part, &node, &self.creds)?
                    }
                };
                continue;
            }
            match child {
                Some(child) if child.inode().is_dir() && kind == s::S_IFDIR => return Ok(None),
                Some(child) if child.inode().is_dir() => return Err(Errno::EISDIR),
                Some(child) => {
                    dir.inode().ops().unlink(dir.inode(), part, child.inode())?;
                    dir.detach(&child);
                }
                None => {}
            }
            return Ok(Some((dir, part.to_vec())));
        }
        Err(Errno::EINVAL)
    }

    /// A path of an archive may lead through a link to a directory.
    fn follow(&self, dir: &Arc<Dentry>, link: &Arc<Dentry>) -> Result<Arc<Dentry>, Errno> {
        let base = Path { mount: self.root.mount.clone(), dentry: dir.clone() };
        let context = WalkContext { base: base.into(), ..self.context() };
        let name = link.name();
        let mut walker = Walker::new(context, &name)?;
        walker.run(Last::Follow)?;
        if walker.at.dentry.inode().is_dir() { Ok(walker.at.dentry) } else { Err(Errno::ENOTDIR) }
    }

    fn refresh_directory(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Errno> {
        let place = lookup(self.context(), name, Last::NoFollow)?;
        let inode = place.dentry.inode();
        inode.set_permissions(entry.mode);
        inode.set_owner(entry.uid, entry.gid);
        self.times.push((inode.clone(), entry.mtime));
        Ok(())
    }

    fn set_dir_times(&mut self) {
        for (inode, mtime) in self.times.drain(..) {
            set_times(&inode, mtime);
        }
    }
}

/// What of a boot range lies from byte `offset` on.
fn range_from(range: FrameRange, offset: usize) -> FrameRange {
    let skip = u32::try_from(offset / PAGE_SIZE).unwrap_or(u32::MAX).min(range.count);
    FrameRange { start: Pfn(range.start.0 + skip), count: range.count - skip }
}

fn enter_regular(dir: &Arc<Dentry>, name: &[u8], entry: &Entry, data: &[u8], home: Home) -> Result<Arc<Dentry>, Errno> {
    let mapping = match home {
        Home::Boot(range) if !data.is_empty() => {
            let count = u32::try_from(data.len().div_ceil(PAGE_SIZE)).map_err(|_| Errno::EFBIG)?;
            Mapping::from_boot(FrameRange { start: range.start, count }, data.len() as u64)
        }
        _ => Mapping::new(),
    };
    let node = NewNode { mode: entry.mode, rdev: 0, target: b"", uid: entry.uid, gid: entry.gid };
    if mapping.size() == 0 && !data.is_empty() {
        fill(&mapping, data)?;
    }
    tmpfs::enter_file(dir, name, &node, mapping)
}

fn write_data(inode: &Inode, data: &[u8]) -> Result<(), Errno> {
    fill(inode.mapping().ok_or(Errno::EINVAL)?, data)
}

fn fill(mapping: &Mapping, data: &[u8]) -> Result<(), Errno> {
    let mut source = IoSrc::kernel(data);
    let done = mapping.write(0, &mut source)?;
    if done < data.len() { Err(Errno::ENOSPC) } else { Ok(()) }
}

fn set_times(inode: &Inode, mtime: u32) {
    let time = Timespec { tv_sec: i64::from(mtime), tv_nsec: 0 };
    inode.update_times(|times| {
        times.mtime = time;
        times.atime = time;
        times.ctime = time;
    });
}

/// Inflates one gzip member (RFC 1952). Returns the data and the member's length.
fn gunzip(bytes: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let broken = || String::from("compressed archive is broken");
    let body = gzip_body(bytes).ok_or_else(broken)?;
    let (data, used) = inflate(bytes.get(body..).unwrap_or(&[]))?;
    let end = body + used;
    let trailer = bytes.get(end..end + 8).ok_or_else(broken)?;
    let word = |at: usize| trailer.get(at..at + 4).and_then(|w| w.try_into().ok()).map(u32::from_le_bytes);
    if word(0) != Some(crc32(&data)) || word(4) != Some(data.len() as u32) {
        return Err(String::from("compressed archive fails its checksum"));
    }
    Ok((data, end + 8))
}

/// Where the deflate stream of a gzip member begins.
fn gzip_body(bytes: &[u8]) -> Option<usize> {
    const HEADER_CRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const DEFLATE: u8 = 8;
    let flags = *bytes.get(3)?;
    if *bytes.get(2)? != DEFLATE {
        return None;
    }
    let mut at = 10;
    if flags & EXTRA != 0 {
        at += 2 + usize::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            at += bytes.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    if flags & HEADER_CRC != 0 {
        at += 2;
    }
    (at < bytes.len()).then_some(at)
}

/// Inflates a raw deflate stream into a growing buffer.
fn inflate(input: &[u8]) -> Result<(Vec<u8>, usize), String> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
    let mut state = alloc::boxed::Box::new(DecompressorOxide::new());
    let mut output: Vec<u8> = Vec::new();
    let (mut read, mut written) = (0, 0);
    loop {
        let room = (output.len() * 2).max(1 << 20);
        output.try_reserve(room - output.len()).map_err(|_| String::from("no memory to inflate the archive"))?;
        output.resize(room, 0);
        let rest = input.get(read..).unwrap_or(&[]);
        let (status, used, made) =
            decompress(&mut state, rest, &mut output, written, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
        read += used;
        written += made;
        match status {
            TINFLStatus::Done => {
                output.truncate(written);
                return Ok((output, read));
            }
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                return Err(String::from("compressed archive is truncated"));
            }
            _ => return Err(String::from("compressed archive is broken")),
        }
    }
}

/// CRC-32 of RFC 1952, a nibble at a time.
fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 16] = [
        0x0000_0000,
        0x1db7_1064,
        0x3b6e_20c8,
        0x26d9_30ac,
        0x76dc_4190,
        0x6b6b_51f4,
        0x4db2_6158,
        0x5005_713c,
        0xedb8_8320,
        0xf00f_9344,
        0xd6d6_a3e8,
        0xcb61_b38c,
        0x9b64_c2b0,
        0x86d3_d2d4,
        0xa00a_e278,
        0xbdbd_f21c,
    ];
    let step = |crc: u32, nibble: u32| crc >> 4 ^ TABLE[((crc ^ nibble) & 15) as usize];
    !data.iter().fold(!0u32, |crc, byte| step(step(crc, u32::from(*byte)), u32::from(*byte) >> 4))
}
