//! How long the service takes to start, and how large it is.

use tokio::time::Instant;

use crate::{
    Result,
    peers::{Bench, free_port, serving},
    program::Program,
    progress::Progress,
    table::{Table, median},
};

pub(crate) const STEPS: usize = 1;

pub(crate) async fn measure(bench: &Bench, progress: &mut Progress, runs: usize) -> Result<()> {
    progress.step("start");
    let (_stand_in, ports) = bench.stand_in(1).await?;
    let mut times = Vec::new();
    for _ in 0..runs * 4 {
        let address = format!("127.0.0.1:{}", free_port()?);
        let began = Instant::now();
        let _facade = Program::start(&mut bench.facade_command(&address, &ports))?;
        serving(&address).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let size = std::fs::metadata(&bench.facade)?.len();
    let mut table = Table::new("Start", &["", "median"]);
    table.row(vec![
        "from the start of the process until health says SERVING".into(),
        format!("{:.1} ms", median(times.into_iter())),
    ]);
    table.row(vec!["size of the program".into(), format!("{:.1} MB", size as f64 / 1e6)]);
    table.print();
    Ok(())
}
