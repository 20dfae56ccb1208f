//! The processes of a run.

use std::process::Stdio;

use copilot_grpc_bench::job::{Job, Outcome};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::Result;

/// A process that tells us things by the line; it ends when this is dropped.
pub(crate) struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{:?}: {error}", command.as_std().get_program()))?;
        let stdout = child.stdout.take().ok_or("no output")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The next line that it tells.
    pub(crate) async fn line(&mut self) -> Result<String> {
        Ok(self.lines.next_line().await?.ok_or("it has ended")?)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        self.child.wait().await?;
        Ok(())
    }

    /// Ends it with SIGKILL.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// Tells it to go on.
    pub(crate) async fn go(&mut self) -> Result<()> {
        self.child.stdin.as_mut().ok_or("no input")?.write_all(b"\n").await?;
        Ok(())
    }
}

/// A program that makes load, and has made its sessions.
pub(crate) struct Load(pub(crate) Program);

impl Load {
    /// Has it prepare a job.
    pub(crate) async fn prepare(command: &mut Command, job: &Job) -> Result<Self> {
        let mut program = Program::start(command.arg(serde_json::to_string(job)?))?;
        program.line().await?;
        Ok(Self(program))
    }

    /// Has it do the job.
    pub(crate) async fn run(&mut self) -> Result<Outcome> {
        self.0.go().await?;
        Ok(serde_json::from_str(&self.0.line().await?)?)
    }
}
