//! What goes wrong, when, and for how long: drawn by dice.

use std::{fmt, time::Duration};

use tokio::time::sleep;

use crate::support::{dice::Dice, proxy::Proxy, real_cli::LastingCli};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// A connection to the CLI is reset, or all of them are; or one after the other.
    Reset,
    /// The same, but they fall silent.
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

/// One fault, as the dice have it.
pub(super) struct Blow {
    pub(super) fault: Fault,
    /// How long after the turns' beginning.
    pub(super) after: Duration,
    /// Which connection, if there are so many; otherwise all.
    connection: usize,
    pub(super) lasts: Duration,
    nonsense: Vec<u8>,
}

impl Blow {
    pub(super) fn draw(fault: Fault, dice: &mut Dice) -> Self {
        let ms = Duration::from_millis;
        let lasts = match fault {
            Fault::Frozen => ms(5000),
            // Seldom for longer than the link is trusted.
            Fault::Stalled if dice.one_in(4) => dice.between(ms(6000), ms(9000)),
            Fault::Stalled | Fault::SlowReader => dice.between(ms(100), ms(3000)),
            Fault::Reset if dice.one_in(3) => dice.between(ms(1), ms(600)),
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
        Self { fault, after, connection: dice.below(3), lasts, nonsense }
    }

    /// Whether a turn may fail for it.
    pub(super) fn may_cost_a_turn(&self) -> bool {
        match self.fault {
            Fault::SlowReader => false,
            // A link that is silent for no longer than this is kept.
            Fault::Stalled => self.lasts > Duration::from_secs(4),
            _ => true,
        }
    }

    /// It happens.
    pub(super) async fn fall(&self, cli: &LastingCli, proxy: &Proxy) {
        sleep(self.after).await;
        let all = self.connection >= proxy.connections();
        match self.fault {
            Fault::Reset if all => proxy.reset(),
            Fault::Reset => {
                proxy.reset_one(self.connection);
                if !self.lasts.is_zero() {
                    sleep(self.lasts).await;
                    proxy.reset_one(0);
                }
            }
            Fault::HalfOpen if all => proxy.silence(),
            Fault::HalfOpen => proxy.silence_one(self.connection),
            Fault::Killed => cli.restart().await,
            Fault::Frozen => cli.freeze(self.lasts).await,
            Fault::Stalled => {
                proxy.hold();
                sleep(self.lasts).await;
                proxy.release();
            }
            // Its turns see to it.
            Fault::SlowReader => {}
            Fault::Malformed => proxy.insert(self.connection % 2, self.nonsense.clone()),
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, after, connection, lasts, nonsense } = self;
        write!(f, "{fault:?} of connection {connection} after {after:?} for {lasts:?}")?;
        if *fault == Fault::Malformed {
            write!(f, ", {:?}", String::from_utf8_lossy(nonsense))?;
        }
        Ok(())
    }
}
