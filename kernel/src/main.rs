//! The image: boots, owns boards and drivers, wires them to kcore, and decides nothing.
//!
//! [`start::main`] is the table of contents of the boot. [`boot`] finds out what machine this is and describes it as a
//! [`board`]; [`driver`] has the devices; [`panic`] is the end that nobody wants, and [`symbols`] gives it names.
//!
//! On a PC the package is an empty program; what of it is pure parsing has tests that run there.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

#[cfg(any(target_os = "none", test))]
extern crate alloc;

#[cfg(any(target_os = "none", test))]
#[cfg_attr(test, expect(dead_code, reason = "the tests use the parsers, not where they are pointed to"))]
mod board;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod driver;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod start;
#[cfg(any(target_os = "none", test))]
mod symbols;

#[cfg(not(target_os = "none"))]
fn main() {}
