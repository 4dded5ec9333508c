//! Snapshots by the clock, into a folder and into a bucket: they come, the old ones go, and one gives everything back.

use std::fs;

use bramble_tests::board::Board;
use bramble_tests::bucket::{BUCKET, BucketServer};
use bramble_tests::host::{binary, output};

/// Larger than one part of an upload, however well it is packed.
const BULK_MAPS: usize = 10;
const BULK_BYTES: usize = 700 << 10;
const PART_BYTES: u64 = 5 << 20;

/// Names and sizes of what lies below the prefix, as Amazon's own client sees it.
fn there(server: &BucketServer) -> Vec<(String, u64)> {
    let list = format!(
        "for found in client.list_objects_v2(Bucket='{BUCKET}', Prefix='site/').get('Contents', []):\n  \
         print(found['Key'], found['Size'])"
    );
    let told = server.boto3(&list);
    let line = |line: &str| {
        let (name, size) = line.split_once(' ').expect("two words");
        (name.to_owned(), size.parse().expect("a size"))
    };
    told.lines().map(line).collect()
}

#[test]
fn snapshots_by_the_clock_reach_a_folder_and_a_bucket_and_come_back() {
    let mut board = Board::new("backup");
    let server = BucketServer::start(&board);
    let (url, keys, authority) = (server.url("site"), server.credentials(), server.authority());
    let s3 = format!(
        "--snapshot-s3 {url} --snapshot-s3-credentials {} --snapshot-s3-ca {}",
        keys.display(),
        authority.display()
    );
    let folder = board.dir().join("snapshots");
    let line = format!("--snapshot-every 10s --snapshot-keep 2 --snapshot-dir {} {s3}", folder.display());
    // What an upload of another day left, and what is not ours.
    let _ = server.boto3(&format!(
        "client.create_multipart_upload(Bucket='{BUCKET}', Key='site/bramble-2020-01-01T00-00-00Z.snapshot')\n\
         client.create_multipart_upload(Bucket='{BUCKET}', Key='site/mine')\n\
         client.put_object(Bucket='{BUCKET}', Key='site/notes', Body=b'mine')"
    ));
    board.start(&line.split(' ').collect::<Vec<_>>());
    for number in 0..BULK_MAPS {
        let path = board.dir().join("bulk");
        fs::write(&path, noise(number)).expect("written");
        let _ = board.kubectl(&format!("create configmap bulk-{number} --from-file={}", path.display()));
    }
    let _ = board.kubectl("create configmap kept --from-literal=word=forget-me-not");

    let snapshots = || -> Vec<(String, u64)> {
        there(&server).into_iter().filter(|(name, _)| name.ends_with(".snapshot")).collect()
    };
    let large = || snapshots().into_iter().find(|(_, size)| *size > PART_BYTES);
    let (first, _) = board.eventually("a snapshot in several parts is in the bucket", 60, large);
    board.eventually("it has gone for newer ones", 90, || {
        let names = snapshots();
        (names.len() == 2 && names.iter().all(|(name, _)| *name > first)).then_some(())
    });
    assert!(there(&server).contains(&("site/notes".into(), 4)), "what is not ours stays");
    let uploads =
        format!("print([u['Key'] for u in client.list_multipart_uploads(Bucket='{BUCKET}').get('Uploads', [])])");
    assert_eq!(
        server.boto3(&uploads).trim(),
        "['site/mine']",
        "the abandoned upload is gone, and none of ours is left"
    );
    board.eventually("the folder keeps two as well", 30, || {
        (fs::read_dir(&folder).expect("a folder").count() == 2).then_some(())
    });

    let listed = board.bramble(&format!("snapshot list --snapshot-dir {} {s3}", folder.display()));
    assert_eq!(listed.lines().filter(|line| line.ends_with("/backups/site/")).count(), 2, "{listed}");
    assert_eq!(listed.lines().filter(|line| line.ends_with("/snapshots")).count(), 2, "{listed}");
    board.stop();
    let (newest, size) = snapshots().pop().expect("a snapshot");
    let newest = newest.strip_prefix("site/").expect("below the prefix");
    let file = board.dir().join("fetched");
    let _ = board.bramble(&format!("snapshot fetch {newest} {} {s3}", file.display()));
    assert_eq!(fs::metadata(&file).expect("fetched").len(), size);
    for name in ["store.redb", "store.redb.journal"] {
        fs::rename(board.dir().join("data").join(name), board.dir().join(name)).expect("moved away");
    }
    let _ = board.bramble(&format!("snapshot restore {}", file.display()));

    server.spoil_secret();
    board.start(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(board.kubectl("get configmap kept -o jsonpath={.data.word}"), "forget-me-not");
    board.eventually("the log tells what is wrong with the keys", 60, || {
        board.log().contains("SignatureDoesNotMatch").then_some(())
    });
    let mut list = board.command(binary());
    let told = output(list.args(format!("snapshot list {s3}").split(' ')).args(board.directories()));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("SignatureDoesNotMatch") && told.contains("--snapshot-s3-credentials"), "{told}");
    assert!(!board.log().contains(server.secret()) && !board.log().contains("not-the-secret"));
    board.stop();
}

/// Bytes that no packing makes smaller (xorshift).
fn noise(seed: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed as u64 + 1);
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(word).take(BULK_BYTES / 8).flatten().collect()
}
