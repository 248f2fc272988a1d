//! The image: boots, owns boards and drivers, wires them to kcore, and decides nothing.
//!
//! [`main`] is the table of contents of the boot. [`board`] says what machine this is, [`driver`] has the devices,
//! [`panic`] is the end that nobody wants, and [`symbols`] gives it names.
//!
//! On a PC the package is an empty program; what of it is pure parsing has tests that run there.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

extern crate alloc;

#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "on a PC only the tests use it"))]
mod board;
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "on a PC only the tests use it"))]
mod symbols;

#[cfg(not(target_os = "none"))]
fn main() {}
