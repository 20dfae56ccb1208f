//! What is stored of folders, and what is written with it.

use super::{super::*, *};

on_both! {
    chunks_are_read_in_order_from_the_last_snapshot_on
    a_chunk_that_follows_another_head_is_refused_with_all_that_came_with_it
    a_turn_is_settled_as_a_whole
    a_turn_of_another_process_is_not_settled
    a_large_chunk_comes_back_whole
}

fn chunk(after: Option<i64>, data: &[u8], is_snapshot: bool) -> Settling {
    let folder = FolderWrite { after, data: data.into(), manifest: [b"m", data].concat(), is_snapshot };
    Settling { folder: Some(folder), ..Settling::default() }
}

async fn chunks_are_read_in_order_from_the_last_snapshot_on(place: Place) {
    let store = place.open().await;
    let uid = make(&store, "s").await;
    assert_eq!(store.folder_head(uid.uid).await, Ok(None));
    assert_eq!(store.folder(uid.uid).await, Ok(Vec::new()));
    store.settle(uid, &chunk(None, b"a", true)).await.unwrap();
    store.settle(uid, &chunk(Some(1), b"bb", false)).await.unwrap();
    let head = FolderHead { seq: 2, chunks: 2, bytes: 3, manifest: b"mbb".into() };
    assert_eq!(store.folder_head(uid.uid).await, Ok(Some(head)));
    assert_eq!(store.folder(uid.uid).await, Ok(vec![b"a".to_vec(), b"bb".to_vec()]));
    store.settle(uid, &chunk(Some(2), b"ccc", true)).await.unwrap();
    store.settle(uid, &chunk(Some(3), b"", false)).await.unwrap();
    let head = FolderHead { seq: 4, chunks: 2, bytes: 3, manifest: b"m".into() };
    assert_eq!(store.folder_head(uid.uid).await, Ok(Some(head)));
    assert_eq!(store.folder(uid.uid).await, Ok(vec![b"ccc".to_vec(), Vec::new()]));
}

async fn a_chunk_that_follows_another_head_is_refused_with_all_that_came_with_it(place: Place) {
    let store = place.open().await;
    let uid = make(&store, "s").await;
    store.settle(uid, &chunk(None, b"a", true)).await.unwrap();
    for (after, is_snapshot) in [(None, true), (Some(0), false), (Some(2), false), (Some(2), true)] {
        let mut settling = chunk(after, b"b", is_snapshot);
        settling.changes.title = Some("refused".into());
        assert_eq!(store.settle(uid, &settling).await, Err(Error::Conflict));
    }
    let other = make(&store, "other").await;
    assert_eq!(store.settle(other, &chunk(Some(1), b"b", false)).await, Err(Error::Conflict));
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts.title, "");
    assert_eq!(store.folder(uid.uid).await, Ok(vec![b"a".to_vec()]));
}

async fn a_turn_is_settled_as_a_whole(place: Place) {
    let store = place.open().await;
    let uid = make(&store, "s").await;
    let key = RequestKey { tenant: "t".into(), scope: Scope::Session(uid.uid), id: "r".into() };
    store.begin(&key, 1, None, None).await.unwrap();
    let mut settling = chunk(None, b"a", true);
    settling.changes.title = Some("new".into());
    settling.changes.labels = Some(labels([("a", "b")]));
    settling.request = Some(Ended {
        key: key.clone(),
        state: RequestState::Succeeded,
        result: Some("result".into()),
        message_id: None,
    });
    store.settle(uid, &settling).await.unwrap();
    let request = store.request(&key).await.unwrap().unwrap();
    assert_eq!((request.state, request.result.as_deref()), (RequestState::Succeeded, Some("result")));
    assert_eq!(store.find("t", "s").await.unwrap().unwrap().facts.title, "new");
    // The same end once more: the answer to the first may have been lost. Another one is none.
    settling.folder = None;
    store.settle(uid, &settling).await.unwrap();
    let other = settling.request.clone().map(|ended| Ended { result: Some("other".into()), ..ended });
    let other = Settling { request: other, ..settling.clone() };
    assert_eq!(store.settle(uid, &other).await, Err(Error::Conflict));
    // One that is forgotten holds nothing up.
    store.forget(&key).await.unwrap();
    store.settle(uid, &settling).await.unwrap();
}

async fn a_turn_of_another_process_is_not_settled(place: Place) {
    let store = place.open().await;
    let uid = make(&store, "s").await;
    let key = RequestKey { tenant: "t".into(), scope: Scope::Session(uid.uid), id: "r".into() };
    store.begin(&key, 1, None, None).await.unwrap();
    store.close().await;
    let store = place.open().await;
    let mut settling = chunk(None, b"a", true);
    settling.request =
        Some(Ended { key: key.clone(), state: RequestState::Succeeded, result: None, message_id: None });
    assert_eq!(store.settle(uid, &settling).await, Err(Error::Conflict));
    assert_eq!(store.folder(uid.uid).await, Ok(Vec::new()));
    assert_eq!(store.request(&key).await.unwrap().unwrap().state, RequestState::Accepted);
}

async fn a_large_chunk_comes_back_whole(place: Place) {
    let store = place.open().await;
    let uid = make(&store, "s").await;
    let data: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
    store.settle(uid, &chunk(None, &data, true)).await.unwrap();
    assert!(store.folder(uid.uid).await.unwrap() == [data]);
}
