//! One embedded CLI: started, waited for, ended.
//!
//! The CLI speaks JSON-RPC on its standard input and output, which are one end of a socket pair; the facade holds the other
//! end. No port is open that an agent's tool could connect to, and there is no token that it could find. It is a socket pair
//! and not two pipes, because whoever runs as the same user can open a pipe in `/proc/PID/fd`, but not a socket.
//!
//! The facade's child is not the CLI but the [guard], which runs the CLI and ends it, with every tool that it started, as soon
//! as the facade's end is closed. That end is the *lifeline*: the [`Process`] closes it, and however it is lost, by drop, panic
//! or `kill -9`, the CLI ends.
//!
//! This module knows the CLI's command line and environment, and nothing of the protocol.
//!
//! Tests: in this file, and `tests/integration/process.rs`, `tests/integration/stdio.rs`.

pub mod discover;
pub mod guard;
mod output;
pub mod private;

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, net},
    },
    path::{self, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    process::{Child, ChildStderr, Command},
    sync::watch,
    time::timeout,
};
use tracing::{debug, warn};

use discover::{Fitness, Form};
use output::Output;

/// The command line, folders and environment of a CLI to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The CLI's executable, as [`discover::find`] finds it.
    pub cli: PathBuf,
    /// Its form. Both are started in the same way.
    pub form: Form,
    /// This binary, whose `guard` subcommand is run. On Linux `/proc/self/exe` outlives an upgrade in place.
    pub guard: PathBuf,
    /// The CLI's own home (`COPILOT_HOME`); no two CLIs may share one. Created for the owner only.
    pub home: PathBuf,
    /// Its working directory. Created for the owner only.
    pub work_dir: PathBuf,
    /// Variables added to the inherited ones. Those that this module sets win.
    pub env: Vec<(OsString, OsString)>,
    /// How long it may take to start and shake hands. It takes less than a second, and more on a cold disk.
    pub start_timeout: Duration,
}

/// A running CLI.
///
/// Dropping it ends the CLI and all its children, soon and in the background; [`stop`](Self::stop) waits for that.
#[derive(Debug)]
pub struct Process {
    cli_pid: Option<u32>,
    running: Running,
}

impl Process {
    /// Starts a CLI and shakes hands with it over its standard input and output, by `shake_hands`. Returns the result of that,
    /// too; there `None` means that the other end was closed, and then the CLI has ended or is about to.
    ///
    /// The CLI inherits the environment except for `COPILOT_GRPC_*`, the facade's own settings, and the connection token for
    /// external CLIs.
    ///
    /// # Errors
    ///
    /// After an error nothing is left running; waiting for that may take as long as [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends what was started, in the background.
    pub async fn start<T, F>(
        spec: &Spec,
        shake_hands: impl FnOnce(UnixStream) -> F,
    ) -> Result<(Self, T), StartError>
    where
        F: Future<Output = Option<T>>,
    {
        match discover::fitness(&spec.cli) {
            Fitness::Executable => {}
            Fitness::Missing => return Err(StartError::NotFound(spec.cli.clone())),
            Fitness::NotExecutable => return Err(StartError::NotExecutable(spec.cli.clone())),
        }
        let (mut running, stdio) = Running::spawn(spec)?;

        let shaken = tokio::select! {
            // A CLI that shook hands and ended at once has been ready.
            biased;
            shaken = shake_hands(stdio) => shaken,
            exit = running.exited() => return Err(StartError::Exited(exit)),
            () = tokio::time::sleep(spec.start_timeout) => {
                let last_lines = running.stop().await.last_lines;
                return Err(StartError::NotReady { timeout: spec.start_timeout, last_lines });
            }
        };
        let Some(shaken) = shaken else { return Err(StartError::Exited(running.stop().await)) };
        let cli_pid = running.guard_pid.and_then(first_child);
        Ok((Self { cli_pid, running }, shaken))
    }

    /// The CLI's process id, for logs; known on Linux only. Where the CLI is npm's script, it is the script's.
    pub fn cli_pid(&self) -> Option<u32> {
        self.cli_pid
    }

    /// Resolves when the CLI and its children are gone, at once if they are already.
    ///
    /// # Cancel safety
    ///
    /// The future only waits: it may be dropped and called again at any time.
    pub async fn exited(&mut self) -> Exit {
        self.running.exited().await
    }

    /// Ends the CLI and its children, and waits until they are gone, for 15 s at most: a CLI that obeys SIGTERM takes
    /// milliseconds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the waiting, not the ending.
    pub async fn stop(self) -> Exit {
        self.running.stop().await
    }
}

/// The end of a CLI: how it ended, and its last words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: Status,
    /// Up to 20 last lines of its standard error, oldest first, each of at most 500 bytes. For operators: the CLI may print
    /// anything.
    pub last_lines: Vec<String>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.status, Printed(&self.last_lines))
    }
}

/// How a CLI ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its own exit, with this code.
    Code(u8),
    /// A signal, by number; 9 is also what the kernel sends when memory runs out.
    Signal(u8),
    /// Not known: its guard was killed, or could not end it. Something may be left running.
    Lost,
}

impl From<ExitStatus> for Status {
    /// Reads the guard's exit status.
    fn from(status: ExitStatus) -> Self {
        match status.code().map(u8::try_from) {
            Some(Ok(code)) if code > guard::SIGNAL_BASE => Self::Signal(code - guard::SIGNAL_BASE),
            Some(Ok(code)) => Self::Code(code),
            // The guard catches what can be caught: it was killed.
            _ => Self::Lost,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(9) => write!(f, "signal 9: killed, perhaps because memory ran out"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Lost => write!(f, "its guard was lost"),
        }
    }
}

/// Why a CLI could not be started. Each variant calls for another action of the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The executable does not exist.
    #[error("no Copilot CLI at {}: run `npm ci` in the repository, or name the `copilot` binary with --cli-path", .0.display())]
    NotFound(PathBuf),
    /// It is a folder, or lacks the permission.
    #[error("{} is not an executable file: chmod +x it, or name the `copilot` binary with --cli-path", .0.display())]
    NotExecutable(PathBuf),
    /// The home or working directory could not be made.
    #[error("cannot use the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// This binary could not be started as the guard.
    #[error("cannot start {} as the CLI's guard: {source}; look at the limits on processes and open files", path.display())]
    Guard {
        /// The binary.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The CLI ended before it was ready. Its last lines say what it lacks.
    #[error("the Copilot CLI ended before it was ready; set up what it asks for. It ended with {0}")]
    Exited(Exit),
    /// The CLI runs but does not answer.
    #[error(
        "the Copilot CLI was not ready after {timeout:?} and was ended; allow it more time, or look at what it waits for{}",
        Printed(last_lines)
    )]
    NotReady {
        /// How long it had.
        timeout: Duration,
        /// The last lines that it printed, as in [`Exit`].
        last_lines: Vec<String>,
    },
}

impl StartError {
    /// The last lines that the CLI printed, if it was started.
    pub(super) fn last_lines(&self) -> &[String] {
        match self {
            Self::Exited(exit) => &exit.last_lines,
            Self::NotReady { last_lines, .. } => last_lines,
            Self::NotFound(_) | Self::NotExecutable(_) | Self::Folder { .. } | Self::Guard { .. } => &[],
        }
    }
}

/// The CLI's last lines, formatted as the end of a message.
struct Printed<'a>(&'a [String]);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("; it printed nothing");
        }
        f.write_str("; it printed:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A guard process, whether its CLI is ready or not.
#[derive(Debug)]
struct Running {
    lifeline: Lifeline,
    guard_pid: Option<u32>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Running {
    /// Starts the guard, and a task that reads the output until the guard ends, also when this handle is dropped.
    fn spawn(spec: &Spec) -> Result<(Self, UnixStream), StartError> {
        for path in [&spec.home, &spec.work_dir] {
            private::create(path).map_err(|source| StartError::Folder { path: path.clone(), source })?;
        }
        let not_started = |source| StartError::Guard { path: spec.guard.clone(), source };
        let (lifeline, stdio, theirs) = Lifeline::new().map_err(not_started)?;
        // The command holds the other end until it is dropped: nobody but the guard may.
        let spawned = command(spec, theirs).and_then(|mut command| command.spawn());
        let mut guard = spawned.map_err(not_started)?;
        // It was piped.
        let stderr = guard.stderr.take().ok_or_else(|| not_started(io::ErrorKind::BrokenPipe.into()))?;
        let guard_pid = guard.id();
        let (report, exit) = watch::channel(None);
        tokio::spawn(watch_over(guard, Output::new(stderr), report));
        Ok((Self { lifeline, guard_pid, exit }, stdio))
    }

    async fn exited(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(exit)) => exit.clone(),
            // The task that reports it is gone: the runtime is being shut down.
            Ok(None) | Err(_) => Exit { status: Status::Lost, last_lines: Vec::new() },
        }
    }

    async fn stop(mut self) -> Exit {
        self.lifeline.end();
        match timeout(STOP_LIMIT, self.exited()).await {
            Ok(exit) => exit,
            Err(_) => {
                warn!(
                    guard = self.guard_pid,
                    "the guard of a CLI did not end in time; processes may be left"
                );
                Exit { status: Status::Lost, last_lines: Vec::new() }
            }
        }
    }
}

/// The facade's end of the CLI's standard input and output. When it is dropped the guard and the CLI end, whoever else has the
/// socket.
#[derive(Debug)]
struct Lifeline(net::UnixStream);

impl Lifeline {
    /// The lifeline, the stream to talk over it, and its other end.
    fn new() -> io::Result<(Self, UnixStream, net::UnixStream)> {
        let (ours, theirs) = net::UnixStream::pair()?;
        let stdio = ours.try_clone()?;
        stdio.set_nonblocking(true)?;
        Ok((Self(ours), UnixStream::from_std(stdio)?, theirs))
    }

    fn end(&self) {
        // It fails if the other end has gone first.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long ending a CLI may take. The guard's own limits are shorter, unless the guard does not run at all.
const STOP_LIMIT: Duration = guard::LONGEST_END.saturating_add(Duration::from_secs(2));

/// How long to read on after the guard has ended. The pipe ends with it, unless a process is left that holds it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Reads the output while the guard runs, and reports its end.
async fn watch_over(mut guard: Child, mut output: Output<ChildStderr>, report: watch::Sender<Option<Exit>>) {
    let status = tokio::select! {
        status = guard.wait() => status,
        // Only a guard that is about to end has closed its output.
        () = output.drain() => guard.wait().await,
    };
    let _ = timeout(LAST_WORDS, output.drain()).await;
    let status = status.map_or(Status::Lost, Status::from);
    debug!(%status, "the CLI has ended");
    // The handle may be gone: then nobody waits for the report.
    let _ = report.send(Some(Exit { status, last_lines: output.into_last_lines() }));
}

fn command(spec: &Spec, stdio: net::UnixStream) -> io::Result<Command> {
    // The working directory is another one: relative paths would change their meaning.
    let mut command = Command::new(path::absolute(&spec.guard)?);
    command
        .args(["guard", "--"])
        .arg(path::absolute(&spec.cli)?)
        .args(["--headless", "--stdio", "--no-auto-update"])
        .current_dir(path::absolute(&spec.work_dir)?)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .env("COPILOT_HOME", path::absolute(&spec.home)?)
        // Never the operator's own login from the desktop's keyring.
        .env("COPILOT_DISABLE_KEYTAR", "1")
        .env("COPILOT_AUTO_UPDATE", "false")
        .stdin(OwnedFd::from(stdio.try_clone()?))
        .stdout(OwnedFd::from(stdio))
        .stderr(Stdio::piped())
        // Ctrl-C goes to the terminal's foreground group. The facade alone is to hear it: it lets turns finish first.
        .process_group(0);
    let inherited = env::vars_os().map(|(name, _)| name);
    for name in inherited.chain(spec.env.iter().map(|(name, _)| name.clone())).filter(|name| is_ours(name)) {
        command.env_remove(name);
    }
    Ok(command)
}

/// Whether a variable is one of the facade's settings: they may hold keys, and mean nothing to the CLI.
fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"COPILOT_GRPC_") || name == "COPILOT_CONNECTION_TOKEN"
}

/// The oldest child of `guard`, which is the CLI: orphans are added behind it. `None` where the kernel does not list them.
fn first_child(guard: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn the_guards_exit_status_tells_how_the_cli_ended() {
        let check = |raw, expected| assert_eq!(Status::from(ExitStatus::from_raw(raw)), expected);
        check(0, Status::Code(0));
        check(1 << 8, Status::Code(1));
        check(137 << 8, Status::Signal(9));
        check(9, Status::Lost);
    }

    #[test]
    fn messages_say_what_to_do_and_what_the_cli_said() {
        let exit =
            Exit { status: Status::Code(1), last_lines: vec!["Offline mode requires a provider.".into()] };
        let message = StartError::Exited(exit).to_string();
        assert!(message.contains("exit code 1") && message.contains("Offline mode requires"), "{message}");
        let message = StartError::NotFound("/opt/copilot".into()).to_string();
        assert!(message.contains("/opt/copilot") && message.contains("--cli-path"), "{message}");
    }
}
