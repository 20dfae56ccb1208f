//! What it costs to be many: calls that go on to another server, sessions that are taken over, and what all of them ask of the one
//! PostgreSQL that they share.

mod ceiling;
mod hop;
mod idle;
mod takeover;

use copilot_grpc::backend::process::discover::Form;
use scripted_model::ModelServer;
use tempfile::TempDir;

use crate::{
    Result, cli,
    database::{Database, Sql},
    peers::{Bench, free_port, serving},
    program::Program,
    progress::Progress,
};

/// What of it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece {
    Hop,
    TakeOver,
    Idle,
    Ceiling,
}

impl Piece {
    pub(crate) const ALL: [Self; 4] = [Self::Hop, Self::TakeOver, Self::Idle, Self::Ceiling];

    fn steps(self, runs: usize) -> usize {
        match self {
            Self::Hop => runs,
            Self::TakeOver => takeover::STEPS,
            Self::Idle => idle::STEPS,
            Self::Ceiling => ceiling::steps(runs),
        }
    }
}

pub(crate) fn steps(pieces: &[Piece], runs: usize) -> usize {
    pieces.iter().map(|piece| piece.steps(runs)).sum()
}

pub(crate) async fn measure(
    bench: &Bench,
    progress: &mut Progress,
    pieces: &[Piece],
    runs: usize,
) -> Result<()> {
    for piece in pieces {
        // Anew for each: it writes behind for minutes what it was told before.
        let database = Database::start().await?;
        match piece {
            Piece::Hop => hop::measure(bench, &database, progress, runs).await?,
            Piece::TakeOver => takeover::measure(bench, &database, progress, runs).await?,
            Piece::Idle => idle::measure(bench, &database, progress).await?,
            Piece::Ceiling => ceiling::measure(&database, progress, runs).await?,
        }
    }
    Ok(())
}

/// What a node runs its sessions with.
#[derive(Clone, Copy)]
enum Cli<'m> {
    StandIn,
    /// The real one, with a model.
    Native(&'m ModelServer),
}

/// A server among several, with a CLI of its own.
struct Node {
    name: &'static str,
    address: String,
    program: Program,
    folder: TempDir,
}

impl Node {
    /// Starts one on an empty disk.
    async fn start(
        bench: &Bench,
        name: &'static str,
        store: &str,
        cli: Cli<'_>,
        flags: &[&str],
    ) -> Result<Self> {
        let (address, folder) = (format!("127.0.0.1:{}", free_port()?), tempfile::tempdir()?);
        let mut command = match cli {
            Cli::StandIn => bench.embedding_command(&address, &bench.stand_in_path(), folder.path()),
            Cli::Native(model) => cli::command(bench, Form::Native, model, &address, folder.path())?,
        };
        command.arg(format!("--store-url={store}")).arg(format!("--node-name={name}"));
        let program = Program::start(command.args(flags))?;
        serving(&address).await?;
        Ok(Self { name, address, program, folder })
    }
}

/// Makes sure that all sessions whose ids begin with this are this node's: else what is measured is not what is told.
async fn all_owned_by(sql: &mut Sql, node: &Node, prefix: &str) -> Result<()> {
    let name = node.name;
    let [others] = sql
        .numbers(&format!("SELECT count(*) FROM sessions WHERE id LIKE '{prefix}%' AND node <> '{name}'"))
        .await?;
    if others == 0 {
        Ok(())
    } else {
        Err(format!("{others} of the sessions {prefix}* are not {name}'s").into())
    }
}
