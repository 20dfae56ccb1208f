//! The guard: the parent process of one CLI, which ends what the CLI leaves behind.
//!
//! The agent runs its tools in process sessions of their own, so neither a signal to the CLI's process group nor the CLI's
//! death ends a running `sleep 300`: it would live on under init. The guard stands in between. As a *child subreaper* it
//! inherits such orphans, and ends them when the CLI is gone.
//!
//! Its standard input and output are the CLI's: a socket whose other end is the facade's. The guard neither reads nor writes a
//! byte of it. It only watches whether the other end is still there, and ends the CLI when it is not. So every death of the
//! facade, `kill -9` included, is noticed without any of the facade's code running.
//!
//! It knows processes only, and nothing of the protocol on that socket.
//!
//! ## Why a signal never hits a stranger
//!
//! A process id may be given to another process once its owner has been reaped. One task both reaps and signals,
//! signals only its own children, and never one that it has reaped.
//!
//! ## On systems other than Linux
//!
//! There are no subreapers: the CLI's process group is ended, tools that left it are not.
//!
//! Tests: in this file, and `tests/integration/process.rs`.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{Shutdown, shutdown},
    process::{self, Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus},
};
use tokio::{
    signal::unix::{self, SignalKind},
    sync::oneshot,
    time::timeout,
};

/// How long the CLI may take to save its sessions after SIGTERM. It takes 30 ms when idle.
const GRACE: Duration = Duration::from_secs(3);

/// How long a killed CLI may take to disappear. Only a process that hangs in the kernel (a dead NFS mount) is that slow.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How long killing its remaining descendants may take. The limit is reached if one belongs to another user (`sudo`) and cannot
/// be killed.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// The longest time from the loss of the facade to the guard's own exit.
pub(crate) const LONGEST_END: Duration = GRACE.saturating_add(KILL_LIMIT).saturating_add(SWEEP_LIMIT);

/// Runs a program on this process's standard streams until it exits or the other end of standard input is gone, and leaves none
/// of its descendants behind. `args` are the program and its arguments.
///
/// The exit code is the program's own, or 128 plus the signal that ended it; 127 and 126 say that it was not found or could not
/// be executed, as in a shell, and 125 that the guard itself failed.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut args = args.peekable();
    if let Some(guard) = args.peek().and_then(|first| leash::holder(first)) {
        args.next();
        return leash::become_program(guard, args);
    }
    match guard(args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(format_args!("{error}"));
            ExitCode::from(GUARD_FAILED)
        }
    }
}

fn guard(args: impl Iterator<Item = OsString>) -> io::Result<u8> {
    #[cfg(target_os = "linux")]
    {
        process::set_child_subreaper(Some(process::getpid()))?;
        // `killall copilot-grpc` is meant for the facade; the guards must live on to end the CLIs. Only a name: no harm
        // if it cannot be set.
        let _ = std::fs::write("/proc/self/comm", "copilot-guard");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        // Before the CLI starts: a child that dies first would not be noticed.
        let child_died = unix::signal(SignalKind::child())?;
        let mut told_to_end = ToldToEnd::listen()?;

        let child = leash::command(args)?
            // Its own group: what is sent to the guard's is not sent to the CLI.
            .process_group(0)
            .spawn()?;
        let cli = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
        let mut children = Children { cli, status: None, child_died };

        tokio::select! {
            () = children.cli_gone() => {}
            () = told_to_end.wait() => children.end_cli().await,
        }
        // The facade is to know at once, although this process holds the socket, too, as may a process that is hard to end.
        // Fails where standard input is no socket; then nobody needs to be told.
        let _ = shutdown(io::stdin(), Shutdown::Both);
        children.sweep().await;
        Ok(children.exit_code())
    })
}

/// What makes the guard end a running CLI.
struct ToldToEnd {
    hung_up: oneshot::Receiver<()>,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
}

impl ToldToEnd {
    fn listen() -> io::Result<Self> {
        let (ended, hung_up) = oneshot::channel();
        // A thread of its own: standard input may be a file or a terminal, which the runtime cannot poll everywhere. It ends
        // with the process.
        thread::Builder::new().name("stdin".into()).spawn(move || {
            wait_for_hang_up();
            let _ = ended.send(());
        })?;
        Ok(Self {
            hung_up,
            // By default these would kill the guard and free the tools.
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hang_up: unix::signal(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = &mut self.hung_up => {}
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Returns when nobody holds the other end of standard input, even if there is something left to read: that is for the CLI.
fn wait_for_hang_up() {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::HUP)];
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    loop {
        match poll(&mut watched, None) {
            Ok(_) if watched[0].revents().intersects(gone) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The CLI, and the orphans that the guard inherited from it.
struct Children {
    cli: Pid,
    /// Set when the CLI has been reaped; from then on its process id may belong to another process.
    status: Option<WaitStatus>,
    child_died: unix::Signal,
}

impl Children {
    /// Reaps dead children until the CLI is among them.
    async fn cli_gone(&mut self) {
        self.reap();
        while self.status.is_none() {
            self.child_died.recv().await;
            self.reap();
        }
    }

    async fn end_cli(&mut self) {
        // The group, not the CLI alone: npm's loader is a Node process that dies at SIGTERM and leaves the CLI, its
        // child, running.
        self.signal_cli(Signal::TERM);
        if timeout(GRACE, self.cli_gone()).await.is_err() {
            self.signal_cli(Signal::KILL);
            let _ = timeout(KILL_LIMIT, self.cli_gone()).await;
        }
    }

    /// Kills and reaps all descendants that are left. To be called when the CLI is gone, or cannot be ended.
    async fn sweep(&mut self) {
        let swept = timeout(SWEEP_LIMIT, async {
            // A death hands the children of the dead process to the guard before it is told of the death: round by round, all
            // of them become its own children, and only those can be signalled safely.
            while self.reap() == Left::Some && cfg!(target_os = "linux") {
                for child in own_children() {
                    // May be another user's: it stays, and the limit ends the wait.
                    let _ = process::kill_process(child, Signal::KILL);
                }
                self.child_died.recv().await;
            }
        });
        if swept.await.is_err() {
            complain(format_args!("these processes could not be ended: {:?}", own_children()));
        }
    }

    /// Reaps all children that are dead by now.
    fn reap(&mut self) -> Left {
        if self.status.is_none() && self.cli_is_dead() {
            // Until it is reaped, its process id, and with it its group's, is not given to anybody else.
            self.signal_cli(Signal::KILL);
        }
        loop {
            match process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.cli => self.status = Some(status),
                Ok(Some(_)) => {}
                Ok(None) => return Left::Some,
                // The only error is that there are no children.
                Err(_) => return Left::None,
            }
        }
    }

    fn cli_is_dead(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(process::waitid(WaitId::Pid(self.cli), look), Ok(Some(_)))
    }

    /// Signals the CLI's process group, unless the CLI has been reaped.
    fn signal_cli(&self, signal: Signal) {
        if self.status.is_none() {
            // Fails only where nobody is left to be signalled.
            let _ = process::kill_process_group(self.cli, signal);
        }
    }

    fn exit_code(&self) -> u8 {
        // Not reaped: it was killed and hangs in the kernel.
        let Some(status) = self.status else { return by_signal(Signal::KILL.as_raw()) };
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, Some(signal)) => by_signal(signal),
            (None, None) => GUARD_FAILED,
        }
    }
}

/// Whether there are children, dead or alive.
#[derive(PartialEq)]
enum Left {
    Some,
    None,
}

fn by_signal(signal: i32) -> u8 {
    u8::try_from(i32::from(SIGNAL_BASE) + signal).unwrap_or(u8::MAX)
}

/// The children of this process, from `/proc`: that works on every kernel, unlike `/proc/self/task/*/children`.
fn own_children() -> Vec<Pid> {
    let me = process::getpid();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| parent_of(*pid) == Some(me))
        .collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parent_in_stat(&stat)
}

/// Reads `12 (any (name) at all) S 7 …`: the parent, 7, is the second field behind the *last* parenthesis (proc_pid_stat(5)).
fn parent_in_stat(stat: &[u8]) -> Option<Pid> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok().and_then(Pid::from_raw)
}

/// The exit code for a failure of the guard itself. These codes are as in a shell.
const GUARD_FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended the program.
pub(crate) const SIGNAL_BASE: u8 = 128;

/// Writes to standard error, which is the facade's log of the CLI. If it is closed, the guard goes on without.
fn complain(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "copilot-grpc guard: {what}");
}

/// Makes the kernel end the CLI when the guard dies, so that not even `kill -9` of the guard leaves a CLI behind.
///
/// Linux can send a signal to a process whose parent dies, but only the process itself can ask for it. So the guard starts its
/// own binary once more, which asks and then becomes the CLI: the request survives `execve`.
mod leash {
    use std::os::unix::process::CommandExt as _;

    #[cfg(target_os = "linux")]
    use super::process;
    use super::{Command, ExitCode, NOT_EXECUTABLE, NOT_FOUND, OsStr, OsString, complain, io};

    /// The command that runs a program with its arguments on the leash.
    pub(super) fn command(mut program: impl Iterator<Item = OsString>) -> io::Result<Command> {
        let path = program.next().ok_or_else(|| io::Error::other("no program was given"))?;
        #[cfg(target_os = "linux")]
        let mut command = {
            // This very file, also after an upgrade in place has put another one at its path.
            let mut command = Command::new("/proc/self/exe");
            let guard = process::getpid();
            command.args(["guard", "--"]).arg(format!("{MARK}{guard}")).arg(path);
            command
        };
        #[cfg(not(target_os = "linux"))]
        let mut command = Command::new(path);
        command.args(program);
        Ok(command)
    }

    /// The guard's process id, if this process is the second start.
    pub(super) fn holder(first: &OsStr) -> Option<i32> {
        first.to_str()?.strip_prefix(MARK)?.parse().ok()
    }

    pub(super) fn become_program(guard: i32, mut program: impl Iterator<Item = OsString>) -> ExitCode {
        #[cfg(target_os = "linux")]
        {
            if let Err(error) = process::set_parent_process_death_signal(Some(process::Signal::KILL)) {
                complain(format_args!("cannot tie the CLI to the guard: {error}"));
            }
            // Only deaths after that call count, so look whether it came too late.
            if process::getppid().map(process::Pid::as_raw_pid) != Some(guard) {
                return ExitCode::FAILURE;
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = guard;
        let path = program.next().unwrap_or_default();
        let error = Command::new(&path).args(program).exec();
        complain(format_args!("cannot run {}: {error}", path.display()));
        ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
    }

    const MARK: &str = "--leash=";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_process_name() {
        let check =
            |stat: &str, expected| assert_eq!(parent_in_stat(stat.as_bytes()).map(Pid::as_raw_pid), expected);
        check("12 (sleep) S 7 12 12 0", Some(7));
        check("12 (a) S 9 (b)) R 7 12", Some(7));
        check("12 (MainThread) S 0 0", None);
        check("12 (cut", None);
        check("", None);
    }

    #[test]
    fn the_own_process_has_the_parent_that_the_kernel_names() {
        assert_eq!(parent_of(process::getpid()), process::getppid());
    }

    #[test]
    fn only_the_second_start_is_on_a_leash() {
        assert_eq!(leash::holder(OsStr::new("--leash=12")), Some(12));
        assert_eq!(leash::holder(OsStr::new("/opt/copilot")), None);
    }
}
