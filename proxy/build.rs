//! How the sidecar's binary is linked, so that an idle one has little of it in memory. Without any of this it is the same program.

use std::process::Command;
use std::{env, fs};

/// The C library that reads packed relative relocations, and refuses a binary with them if it is older (its release notes, 2022).
/// Debian has it since version 12.
const GLIBC_WITH_RELR: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cold.ld");
    // A copy, because Cargo goes on knowing its own directories when a checkout is moved with what was built in it.
    let directory = env::var("OUT_DIR").expect("Cargo tells where to");
    if is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && is("PROFILE", "release")
        && usual_linker()
        && !directory.contains(',')
    {
        let script = format!("{directory}/cold.ld");
        fs::copy("cold.ld", &script).expect("the directory can be written to, and Cargo runs this in the package's");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{script}");
        if is("HOST", &env::var("TARGET").unwrap_or_default()) && glibc() >= Some(GLIBC_WITH_RELR) {
            // The places that a program's own address is written to at its start are 17,000: listed they take 420 kB, packed 7 kB.
            println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        }
    }
}

fn is(variable: &str, value: &str) -> bool {
    env::var(variable).is_ok_and(|is| is == value)
}

/// Whether it is left to the compiler which linker is run: the script is for LLVM's, which is the usual one, or GNU's.
fn usual_linker() -> bool {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    env::var_os("RUSTC_LINKER").is_none() && !flags.contains("linker") && !flags.contains("fuse-ld")
}

/// The version of this machine's C library.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
