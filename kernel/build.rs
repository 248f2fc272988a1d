//! Hands the linker script to the linker of the image, and only of the image: on a PC the package is ordinary code whose
//! tests run under `cargo test -p drupe`.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    // The script fixes every address, so a position-independent executable would only add relocations to run at boot.
    // Every Cortex-A53 has erratum 843419 (an adrp near the end of a page can go wrong); rustc asks for the linker's fix on
    // the hard-float target only.
    let erratum = "--fix-cortex-a53-843419";
    for argument in [&format!("-T{here}/link.ld"), "--no-pie", "-znorelro", "--gc-sections", erratum] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
