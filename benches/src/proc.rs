//! What the kernel knows of a process.

use std::{fs, io};

/// Microseconds of a clock tick: Linux tells CPU time in hundredths of a second everywhere.
const TICK: u64 = 10_000;

/// The CPU time that a process has used so far, of all its threads, in microseconds: its own and the kernel's for it.
///
/// # Errors
/// If it is gone.
pub fn cpu(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may hold anything.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks =
        |field: usize| fields.get(field).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) * TICK)
}

/// The memory that a process has for itself, in bytes: what it does not share with files.
///
/// # Errors
/// If it is gone.
pub fn memory(pid: u32) -> io::Result<u64> {
    Ok(status(pid, "RssAnon:")? * 1024)
}

/// The most memory that a process has had so far, in bytes.
///
/// # Errors
/// If it is gone.
pub fn peak(pid: u32) -> io::Result<u64> {
    Ok(status(pid, "VmHWM:")? * 1024)
}

/// How many threads a process has.
///
/// # Errors
/// If it is gone.
pub fn threads(pid: u32) -> io::Result<u64> {
    status(pid, "Threads:")
}

fn status(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    Ok(line.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default())
}

/// How many descriptors a process has open.
///
/// # Errors
/// If it is gone.
pub fn descriptors(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
