//! What the kernel knows of a process.

use std::{collections::BTreeMap, fs, io};

/// The CPU time that a process has used so far, in microseconds: its own and the kernel's for it. Of its threads those that run by
/// now; it is what the scheduler counts in nanoseconds, because times in ticks (`/proc/PID/stat`) are samples, which miss what
/// runs for some microseconds after each timer.
///
/// # Errors
/// If it is gone.
pub fn cpu(pid: u32) -> io::Result<u64> {
    Ok(nanoseconds(pid)?.into_values().sum::<u64>() / 1000)
}

/// What a process uses from now on, also if threads that run now end meanwhile: what they have used before is not missed then.
#[derive(Debug)]
pub struct Meter {
    pid: u32,
    before: BTreeMap<String, u64>,
}

impl Meter {
    /// Begins to count.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn start(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, before: nanoseconds(pid)? })
    }

    /// Begins to count for several processes.
    ///
    /// # Errors
    /// If one of them is gone.
    pub fn start_all(pids: impl IntoIterator<Item = u32>) -> io::Result<Vec<Self>> {
        pids.into_iter().map(Self::start).collect()
    }

    /// What all of them have used since then, in microseconds.
    ///
    /// # Errors
    /// If one of them is gone.
    pub fn read_all(meters: &[Self]) -> io::Result<u64> {
        meters.iter().map(Self::read).sum()
    }

    /// The CPU time since then, in microseconds.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn read(&self) -> io::Result<u64> {
        // One that ends while it is looked at has nothing any more.
        let since = |(thread, now): (String, u64)| {
            now.saturating_sub(self.before.get(&thread).copied().unwrap_or_default())
        };
        Ok(nanoseconds(self.pid)?.into_iter().map(since).sum::<u64>() / 1000)
    }
}

/// The CPU time of each thread of a process.
fn nanoseconds(pid: u32) -> io::Result<BTreeMap<String, u64>> {
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        // It may have ended by now.
        let times = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let running = times.split_ascii_whitespace().next().and_then(|time| time.parse().ok());
        threads.insert(thread.file_name().to_string_lossy().into_owned(), running.unwrap_or_default());
    }
    Ok(threads)
}

/// The CPU time of a process's children that have ended, in microseconds. It is counted in ticks of 10 ms.
///
/// # Errors
/// If the process is gone.
pub fn cpu_of_ended(pid: u32) -> io::Result<u64> {
    let ticks = stat(pid, 16)? + stat(pid, 17)?;
    Ok(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

/// The process whose child a process is.
///
/// # Errors
/// If it is gone.
pub fn parent(pid: u32) -> io::Result<u32> {
    Ok(u32::try_from(stat(pid, 4)?).unwrap_or_default())
}

/// A field of `/proc/PID/stat`, by its number in proc(5).
fn stat(pid: u32, field: usize) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, which is the second field, may have spaces in it.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let value = behind.split_ascii_whitespace().nth(field - 3).and_then(|value| value.parse().ok());
    value.ok_or_else(|| io::Error::other("there is no such number"))
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

/// The children of a process that still run.
///
/// # Errors
/// If the process is gone.
pub fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let of_thread = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        children.extend(of_thread.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    children.sort_unstable();
    Ok(children)
}

/// How many descriptors a process has open.
///
/// # Errors
/// If it is gone.
pub fn descriptors(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
