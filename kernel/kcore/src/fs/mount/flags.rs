//! The flags of mount(2), and those that a mount keeps.

/// `MS_*` flags of mount(2).
pub mod ms {
    /// MS_RDONLY.
    pub const RDONLY: u64 = 1;
    /// MS_NOSUID.
    pub const NOSUID: u64 = 2;
    /// MS_NODEV.
    pub const NODEV: u64 = 4;
    /// MS_NOEXEC.
    pub const NOEXEC: u64 = 8;
    /// MS_REMOUNT.
    pub const REMOUNT: u64 = 32;
    /// MS_NOATIME.
    pub const NOATIME: u64 = 1024;
    /// MS_NODIRATIME.
    pub const NODIRATIME: u64 = 2048;
    /// MS_BIND.
    pub const BIND: u64 = 4096;
    /// MS_MOVE.
    pub const MOVE: u64 = 8192;
    /// MS_REC.
    pub const REC: u64 = 16384;
    /// MS_SILENT.
    pub const SILENT: u64 = 1 << 15;
    /// MS_UNBINDABLE.
    pub const UNBINDABLE: u64 = 1 << 17;
    /// MS_PRIVATE.
    pub const PRIVATE: u64 = 1 << 18;
    /// MS_SLAVE.
    pub const SLAVE: u64 = 1 << 19;
    /// MS_SHARED.
    pub const SHARED: u64 = 1 << 20;
    /// MS_RELATIME.
    pub const RELATIME: u64 = 1 << 21;
    /// MS_STRICTATIME.
    pub const STRICTATIME: u64 = 1 << 24;
}

/// Flags of a mount; the numbers are those of `MS_*`.
pub mod mnt {
    use super::ms;
    /// The flags that belong to a mount rather than to its file system.
    pub const MASK: u32 =
        (ms::RDONLY | ms::NOSUID | ms::NODEV | ms::NOEXEC | ms::NOATIME | ms::NODIRATIME | ms::RELATIME) as u32;
    /// The flags that say how access times are kept.
    pub const ATIME: u32 = (ms::NOATIME | ms::NODIRATIME | ms::RELATIME) as u32;
    /// Nothing may be changed through it.
    pub const READONLY: u32 = ms::RDONLY as u32;
    /// Set-user-ID bits have no effect.
    pub const NOSUID: u32 = ms::NOSUID as u32;
    /// Device nodes cannot be opened.
    pub const NODEV: u32 = ms::NODEV as u32;
    /// Programs cannot be run.
    pub const NOEXEC: u32 = ms::NOEXEC as u32;
    /// Reads leave access times alone.
    pub const NOATIME: u32 = ms::NOATIME as u32;
    /// Access times by the rule of relatime, what mount(2) sets unless told otherwise.
    pub const RELATIME: u32 = ms::RELATIME as u32;
    /// The same as noatime for directories.
    pub const NODIRATIME: u32 = ms::NODIRATIME as u32;
}
