//! Save and restore.

use bramble_store::{
    Config, Durability, ListQuery, Precondition, RESTORE_JUMP, ReadError, Revision, SnapshotError, Store, WatchError,
    Write, restore,
};

#[tokio::test]
async fn a_restored_store_holds_the_records_far_above_their_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let store = Store::open(Config::redb(&old)).unwrap();
    for (key, floor) in [("pods/a", Durability::Durable), ("pods/b", Durability::Deferred)] {
        store.write(vec![Write::put(key, Precondition::Any, key)], floor).await.unwrap();
    }
    let mut saved = Vec::new();
    let revision = store.snapshot(&mut saved).unwrap();
    assert_eq!(revision, store.revision());
    store.write(vec![Write::delete("pods/a", Precondition::Any)], Durability::Durable).await.unwrap();
    let lost = store.revision();
    drop(store);

    for torn in [0, 20, saved.len() / 2, saved.len() - 1] {
        assert!(matches!(restore(&new, &saved[..torn]), Err(SnapshotError::Malformed(_))));
        assert!(!new.exists());
    }
    let mut flipped = saved.clone();
    let middle = saved.len() / 2;
    flipped[middle] ^= 1;
    assert!(restore(&new, &flipped[..]).is_err());
    assert_eq!(restore(&new, &saved[..]).unwrap(), Revision(revision.0 + RESTORE_JUMP));
    assert!(matches!(restore(&new, &saved[..]), Err(SnapshotError::Exists(_))));

    let store = Store::open(Config::redb(&new)).unwrap();
    let page = store.list(ListQuery::all("pods/")).await.unwrap();
    assert_eq!(page.revision.0, revision.0 + RESTORE_JUMP);
    let shown: Vec<_> = page.records.iter().map(|record| (record.key.as_str(), record.revision)).collect();
    assert_eq!(shown, [("pods/a", page.revision), ("pods/b", page.revision)]);
    assert!(matches!(store.watch("pods/", lost), Err(WatchError::Compacted { .. })));
    let query = ListQuery { at: Some(lost), ..ListQuery::all("pods/") };
    assert!(matches!(store.list(query).await, Err(ReadError::Compacted { .. })));
    let write = Write::put("pods/a", Precondition::At(page.revision), "again");
    assert!(store.write(vec![write], Durability::Durable).await.unwrap() > page.revision);
}
