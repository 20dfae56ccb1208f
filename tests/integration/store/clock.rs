//! A machine whose clock is not the store's.

use rustix::process::Signal;

use super::installation::{Installation, create, get, listed, script, send_named};

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_told_and_nothing_is_lost_or_done_twice() {
    for hours in [1, -1] {
        let installation = Installation::beside_a_fast_clock(hours, script).await;
        let server = installation.start().await;
        let told = "this machine's clock is not the store's: the times of sessions, and which are old, are wrong by that";
        assert_eq!(server.times(told), 1, "{hours}");
        let mut client = server.client().await;
        let created = create(&mut client, "s").await.create_time;
        let answer = send_named(&mut client, "s", "r", "one").await.unwrap();
        server.stop(Signal::KILL).await;
        let server = installation.start().await;
        let mut client = server.client().await;
        assert_eq!(send_named(&mut client, "s", "r", "one").await.unwrap(), answer);
        assert_eq!(installation.model.calls().len(), 1);
        assert_eq!(get(&mut client, "s").await.unwrap().create_time, created);
        assert_eq!(listed(&mut client).await, ["s"]);
    }
}
