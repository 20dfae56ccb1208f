//! What a facade holds, counted: what is left behind after all is over shows as a difference.

use std::{collections::HashSet, fs};

use copilot_grpc::session::Load;
use tokio::runtime::{Builder, Runtime};

use super::facade::{Setup, TestFacade};

/// A facade on a runtime of its own, so that its tasks can be told from those of the test.
pub(crate) struct Counted {
    pub(crate) facade: TestFacade,
    /// The ports of its connections: the one that it listens on, and the CLI's.
    ports: [u16; 2],
    runtime: Option<Runtime>,
}

/// What a facade holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Counts {
    tasks: usize,
    /// Descriptors of connections, the other ends included where they are ours.
    sockets: usize,
    load: Load,
    /// Turns that the CLI's admission counts.
    running: usize,
    waiting: usize,
    /// Calls to the CLI that have no answer yet.
    calls: usize,
}

impl Counted {
    /// In front of a CLI on this port.
    pub(crate) async fn start(setup: Setup, cli_port: u16) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let facade = runtime.spawn(setup.start()).await.unwrap();
        let ports = [facade.facade.address().port(), cli_port];
        Self { facade, ports, runtime: Some(runtime) }
    }

    pub(crate) fn counts(&self) -> Counts {
        let sessions = self.facade.facade.sessions();
        let backend = &sessions.pool().all()[0];
        let admission = backend.admission();
        Counts {
            tasks: self.runtime.as_ref().unwrap().metrics().num_alive_tasks(),
            sockets: sockets(&self.ports),
            load: sessions.load(),
            running: admission.running(),
            waiting: admission.waiting(),
            calls: backend.link().map_or(0, |link| link.in_flight()),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Where a runtime is dropped, a test may not wait for its threads.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// The descriptors of this process that are TCP connections from or to one of these ports. Not all there are: other tests run
/// in the same process.
fn sockets(ports: &[u16]) -> usize {
    let open: HashSet<_> = fs::read_dir("/proc/self/fd")
        .expect("descriptors are counted in Linux's /proc")
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
        .collect();
    let connections = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_ours = |address: &str| {
        let port = address.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
        port.is_some_and(|port| ports.contains(&port))
    };
    let ours = connections.lines().filter(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, _, _, _, _, _, _, inode, ..] = fields[..] else { return false };
        (is_ours(local) || is_ours(remote)) && open.contains(&format!("socket:[{inode}]"))
    });
    ours.count()
}
