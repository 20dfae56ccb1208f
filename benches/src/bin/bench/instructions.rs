//! Instructions, counted by callgrind: they depend little on how busy the machine is, but on how tasks take turns. The whole
//! process is counted, with so much load and with twice as much; the difference is what the load costs.

use std::{path::Path, time::Duration};

use copilot_grpc_bench::job::Job;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::{
    Result,
    peers::{Bench, free_port, serving},
    program::{Load, Program},
    progress::Progress,
    table::Table,
};

/// How many turns at once.
const SESSIONS: usize = 8;

/// Loads that are counted.
pub(crate) const STEPS: usize = 3;

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut table = Table::new("Instructions (callgrind)", &["", "copilot-grpc", "bare tonic server"]);
    let mut count =
        async |name: &str, stream: bool, turns: usize, deltas: usize, more: (usize, usize), by: usize| {
            progress.step(format_args!("instructions, {name}"));
            let mut row = vec![name.to_owned()];
            for is_facade in [true, false] {
                if !is_facade && !stream {
                    row.push("-".into());
                    continue;
                }
                let less = run(bench, is_facade, folder.path(), stream, turns, deltas).await?;
                let twice = run(bench, is_facade, folder.path(), stream, more.0, more.1).await?;
                row.push(format!("{}", twice.saturating_sub(less) / by as u64));
            }
            table.row(row);
            Result::Ok(())
        };
    count("SendAndWait, a turn of 5 deltas", false, 20, 5, (40, 5), SESSIONS * 20).await?;
    count("SendAndStream, a turn of 20 deltas", true, 20, 20, (40, 20), SESSIONS * 20).await?;
    count("SendAndStream, each delta of a long stream", true, 1, 1000, (1, 2000), SESSIONS * 1000).await?;
    table.print();
    Ok(())
}

/// All instructions of a process that carries a load.
async fn run(
    bench: &Bench,
    is_facade: bool,
    folder: &Path,
    stream: bool,
    turns: usize,
    deltas: usize,
) -> Result<u64> {
    let out = folder.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    let (_stand_in, ports) = bench.stand_in(1).await?;
    let (mut program, address);
    if is_facade {
        address = format!("127.0.0.1:{}", free_port()?);
        let service = bench.facade_command(&address, &ports);
        program =
            Program::start(valgrind.arg(service.as_std().get_program()).args(service.as_std().get_args()))?;
    } else {
        let bare = bench.program("bare");
        program = Program::start(valgrind.arg(bare.as_std().get_program()))?;
        address = format!("127.0.0.1:{}", program.line().await?);
    }
    serving(&address).await.or_else(|error| if is_facade { Err(error) } else { Ok(()) })?;
    let job = Job {
        address,
        connections: 1,
        prefix: "callgrind".into(),
        sessions: SESSIONS,
        at_once: SESSIONS,
        turns,
        stream,
        deltas,
        size: 24,
        tools: 0,
        pace: 0,
        create: is_facade,
    };
    Load::prepare(&mut bench.program("load"), &job).await?.run().await?;
    // What is said once all is read still has to be done.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pid = Pid::from_raw(program.pid().cast_signed()).ok_or("no process")?;
    kill_process(pid, Signal::TERM)?;
    program.ended().await?;
    let counted = std::fs::read_to_string(&out)?;
    let total = counted.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("callgrind says nothing")?.trim().parse()?)
}
