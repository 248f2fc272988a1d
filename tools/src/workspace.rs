//! Where things lie: the tree, `target/`, and `build/`, which holds all that is downloaded or made and is never committed.

use std::env;
use std::path::{Path, PathBuf};

/// The kernel's and the user programs' targets, as `rust-toolchain.toml` installs them.
pub const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";
pub const USER_TARGET: &str = "aarch64-unknown-linux-musl";

/// The top of the tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A path below `build/`. The folder in which it lies is made when it is missing.
pub fn build(name: &str) -> PathBuf {
    let path = root().join("build").join(name);
    if let Some(folder) = path.parent() {
        // Who writes there next reports the failure with the name of the file, which says more than this place could.
        let _ = std::fs::create_dir_all(folder);
    }
    path
}

/// What cargo built for `target` (`None`: this machine).
pub fn artifact(target: &str, profile: Profile, name: &str) -> PathBuf {
    let folder = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    folder.join(target).join(profile.folder()).join(name)
}

/// `BUILD=debug` or `BUILD=release`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Debug,
    Release,
}

impl Profile {
    pub fn folder(self) -> &'static str {
        match self {
            Profile::Debug => "debug",
            Profile::Release => "release",
        }
    }

    /// What cargo calls it.
    pub fn cargo_name(self) -> &'static str {
        match self {
            Profile::Debug => "dev",
            Profile::Release => "release",
        }
    }
}
