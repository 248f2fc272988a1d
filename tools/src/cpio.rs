//! Archives of the "newc" form, which Linux and we take as an initramfs (Linux: Documentation/driver-api/early-userspace).
//!
//! The kernel uses the data of regular files where it lies, as page cache. So each file's data begins on a page boundary
//! of the archive: the name field is filled up with NULs to get there, which every reader of newc accepts, for a name
//! ends at its first NUL. Linux refuses names longer than a path, so what does not fit is taken up by a second entry for
//! the root directory.

use anyhow::{Context, Result, ensure};
use std::io::Write;

pub const PAGE: u64 = 4096;
const HEADER: u64 = 110;
/// Linux's PATH_MAX: the longest name field it reads.
const LONGEST_NAME: u64 = 4096;

/// Bits of `st_mode` that say what an entry is.
pub const S_IFDIR: u32 = 0o040_000;
pub const S_IFREG: u32 = 0o100_000;
pub const S_IFLNK: u32 = 0o120_000;

/// An archive that is being written.
pub struct Archive<W: Write> {
    out: W,
    offset: u64,
    next_inode: u32,
    mtime: u32,
}

impl<W: Write> Archive<W> {
    /// `mtime`, in seconds, is given to every entry, so that equal contents give equal archives.
    pub fn new(out: W, mtime: u32) -> Archive<W> {
        Archive { out, offset: 0, next_inode: 1, mtime }
    }

    pub fn directory(&mut self, name: &str, permissions: u32) -> Result<()> {
        self.entry(name, S_IFDIR | permissions, &[])
    }

    pub fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, S_IFLNK | 0o777, target.as_bytes())
    }

    /// A regular file. Its data lies on a page boundary.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<()> {
        if !data.is_empty() {
            let shortest = name.len() as u64 + 1;
            let mut field = self.name_field(shortest);
            if field > LONGEST_NAME {
                // A filler of this size leaves a name field that fits.
                let filler = 2 + field.saturating_sub(LONGEST_NAME + HEADER + 2);
                self.header(".", filler.next_multiple_of(4) + 2, S_IFDIR | 0o755, 0)?;
                field = self.name_field(shortest);
            }
            return self.entry_with_field(name, field, S_IFREG | permissions, data);
        }
        self.entry(name, S_IFREG | permissions, data)
    }

    /// How long the next entry's name field is when the data after it begins a page.
    fn name_field(&self, shortest: u64) -> u64 {
        (self.offset + HEADER + shortest).next_multiple_of(PAGE) - self.offset - HEADER
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entry_with_field(name, name.len() as u64 + 1, mode, data)
    }

    fn entry_with_field(&mut self, name: &str, field: u64, mode: u32, data: &[u8]) -> Result<()> {
        let size = u32::try_from(data.len()).with_context(|| format!("{name} is larger than 4 GiB"))?;
        self.header(name, field, mode, size)?;
        self.write(data)?;
        self.align()
    }

    fn header(&mut self, name: &str, field: u64, mode: u32, size: u32) -> Result<()> {
        ensure!(!name.starts_with('/') && !name.contains('\0'), "{name:?} is no name for an archive");
        let links = if mode & S_IFDIR == S_IFDIR && mode & S_IFREG == 0 { 2 } else { 1 };
        let inode = self.next_inode;
        self.next_inode += 1;
        let mut header = String::from("070701");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let field32 = u32::try_from(field)?;
        for value in [inode, mode, 0, 0, links, self.mtime, size, 0, 0, 0, 0, field32, 0] {
            header.push_str(&format!("{value:08X}"));
        }
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        let nulls = field - name.len() as u64;
        self.zeros(nulls)?;
        self.align()
    }

    /// Ends the archive. Its length is a multiple of 512, so that another may follow it.
    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.zeros(self.offset.next_multiple_of(512) - self.offset)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn align(&mut self) -> Result<()> {
        self.zeros(self.offset.next_multiple_of(4) - self.offset)
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        let page = [0; PAGE as usize];
        let mut left = usize::try_from(count)?;
        while left > 0 {
            let part = left.min(page.len());
            self.write(&page[..part])?;
            left -= part;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, PAGE};
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Archives with a file of each name length at each offset that matters.
    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new(), 1);
        archive.directory("bin", 0o755).unwrap();
        archive.file("bin/program", 0o755, &[b'x'; 5000]).unwrap();
        archive.symlink("bin/sh", "program").unwrap();
        archive.file("empty", 0o644, b"").unwrap();
        // The data of the one before ends at every place near a page's end in turn.
        for n in 0..160 {
            archive.file(&format!("before{n}"), 0o644, &vec![b'y'; 3850 + n]).unwrap();
            archive.file(&"n".repeat(1 + n), 0o600, b"data").unwrap();
        }
        archive.finish().unwrap()
    }

    fn number(bytes: &[u8], field: usize) -> usize {
        let text = std::str::from_utf8(&bytes[6 + field * 8..14 + field * 8]).unwrap();
        usize::from_str_radix(text, 16).unwrap()
    }

    #[test]
    fn the_data_of_every_file_begins_a_page_and_no_name_field_is_too_long_for_linux() {
        let bytes = sample();
        assert_eq!(bytes.len() % 512, 0);
        let mut offset = 0;
        let mut files = 0;
        loop {
            let entry = &bytes[offset..];
            assert_eq!(&entry[..6], b"070701", "at {offset}");
            let (mode, size, name_field) = (number(entry, 1), number(entry, 6), number(entry, 11));
            assert!(name_field <= 4096, "{name_field} at {offset}");
            if entry[110..].starts_with(b"TRAILER!!!\0") {
                break;
            }
            let data = (offset + 110 + name_field).next_multiple_of(4);
            if mode & 0o170_000 == 0o100_000 && size > 0 {
                assert_eq!(data as u64 % PAGE, 0);
                files += 1;
            }
            offset = (data + size).next_multiple_of(4);
        }
        assert_eq!(files, 1 + 2 * 160);
    }

    #[test]
    fn the_cpio_program_reads_the_same_names() {
        let Ok(mut cpio) =
            Command::new("cpio").arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        else {
            return eprintln!("this machine has no cpio program: not compared");
        };
        let mut input = cpio.stdin.take().unwrap();
        let bytes = sample();
        let writer = std::thread::spawn(move || input.write_all(&bytes));
        let output = cpio.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names: Vec<&str> = text.lines().filter(|name| *name != ".").collect();
        assert_eq!(names[..4], ["bin", "bin/program", "bin/sh", "empty"]);
        assert_eq!(names.len(), 4 + 2 * 160);
        assert_eq!(names.last(), Some(&"n".repeat(160).as_str()));
    }
}
