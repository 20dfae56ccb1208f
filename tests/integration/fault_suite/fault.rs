//! A fault is one thing that goes wrong: what, when, and for how long, as the dice have it.

use std::{fmt, time::Duration};

use tokio::time::sleep;

use crate::support::{dice::Dice, proxy::Proxy, real_cli::LastingCli};

/// What kind of thing goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// A connection to the CLI is reset, or all of them are; or one after the other.
    Reset,
    /// A connection to the CLI falls silent, or all of them do.
    HalfOpen,
    /// The CLI gets SIGKILL, and is started again.
    Killed,
    /// The CLI gets SIGSTOP, and five seconds later SIGCONT.
    Frozen,
    /// For a while the facade takes nothing from the CLI, nor the CLI anything from it.
    Stalled,
    /// For a while a caller does not read its stream.
    SlowReader,
    /// The facade reads what is no frame.
    Malformed,
}

/// One thing that goes wrong.
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// How long after the turns' beginning.
    pub(super) after: Duration,
    /// Which connection, if there are so many; otherwise all.
    connection: usize,
    pub(super) lasts: Duration,
    nonsense: Vec<u8>,
}

impl Fault {
    pub(super) fn draw(kind: Kind, dice: &mut Dice) -> Self {
        let ms = Duration::from_millis;
        let lasts = match kind {
            Kind::Frozen => ms(5000),
            // Seldom for longer than the link is trusted.
            Kind::Stalled if dice.one_in(4) => dice.between(ms(6000), ms(9000)),
            Kind::Stalled | Kind::SlowReader => dice.between(ms(100), ms(3000)),
            Kind::Reset if dice.one_in(3) => dice.between(ms(1), ms(600)),
            _ => Duration::ZERO,
        };
        let nonsense = match dice.below(4) {
            0 => b"Content-Length: 5\r\n\r\nhello".to_vec(),
            1 => b"Content-Length: 99999999999\r\n\r\n".to_vec(),
            // It swallows the beginning of what comes next.
            2 => b"Content-Length: 10\r\n\r\n{}".to_vec(),
            _ => dice.bytes(20),
        };
        // From before the prompt is sent until a little after the answer is there.
        let after = dice.between(Duration::ZERO, ms(1300));
        Self { kind, after, connection: dice.below(3), lasts, nonsense }
    }

    /// Whether a turn may fail for it.
    pub(super) fn may_cost_a_turn(&self) -> bool {
        match self.kind {
            Kind::SlowReader => false,
            // A link that is silent for no longer than this is kept.
            Kind::Stalled => self.lasts > Duration::from_secs(4),
            _ => true,
        }
    }

    /// Waits for its moment, and has it happen.
    pub(super) async fn happen(&self, cli: &LastingCli, proxy: &Proxy) {
        sleep(self.after).await;
        let all = self.connection >= proxy.connections();
        match self.kind {
            Kind::Reset if all => proxy.reset(),
            Kind::Reset => {
                proxy.reset_one(self.connection);
                if !self.lasts.is_zero() {
                    sleep(self.lasts).await;
                    proxy.reset_one(0);
                }
            }
            Kind::HalfOpen if all => proxy.silence(),
            Kind::HalfOpen => proxy.silence_one(self.connection),
            Kind::Killed => cli.restart().await,
            Kind::Frozen => cli.freeze(self.lasts).await,
            Kind::Stalled => {
                proxy.hold();
                sleep(self.lasts).await;
                proxy.release();
            }
            // Its turns see to it.
            Kind::SlowReader => {}
            Kind::Malformed => proxy.insert(self.connection % 2, self.nonsense.clone()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, after, connection, lasts, nonsense } = self;
        write!(f, "{kind:?} of connection {connection} after {after:?} for {lasts:?}")?;
        if *kind == Kind::Malformed {
            write!(f, ", {:?}", String::from_utf8_lossy(nonsense))?;
        }
        Ok(())
    }
}
