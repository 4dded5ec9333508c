use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bramble-archive-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn config(diff_ids: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<_> = diff_ids.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
    .into_bytes()
}

fn docker_archive(folder: &Folder) -> PathBuf {
    let (low, high) = (tar_of(&[("hello", b"one")]), tar_of(&[("etc/motd", b"hi")]));
    let config = config(&[&low, &high]);
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["local/hello:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let manifest = manifest.to_string();
    let path = folder.0.join("hello.tar");
    // Layers stand before the documents that describe them, as `docker save` writes them.
    let files: &[(&str, &[u8])] =
        &[("a/layer.tar", &low), ("b/layer.tar", &high), ("c.json", &config), ("manifest.json", manifest.as_bytes())];
    std::fs::write(&path, tar_of(files)).unwrap();
    path
}

#[test]
fn a_docker_archive_becomes_an_image_that_a_container_can_use() {
    let folder = Folder::new("docker");
    let images = Images::open(folder.0.join("images")).unwrap();
    let imported = import(&images, &docker_archive(&folder), None, 7).unwrap();
    assert_eq!(imported[0].references, ["docker.io/local/hello:1"]);
    let image = images.get("local/hello:1").unwrap().unwrap();
    assert_eq!(image.config.config().as_ref().unwrap().entrypoint().as_deref(), Some(&["/hello".to_owned()][..]));
    let snapshot = images.prepare("c1", &image).unwrap();
    assert_eq!(std::fs::read(snapshot.lower[1].join("hello")).unwrap(), b"one");
    assert_eq!(std::fs::read(snapshot.lower[0].join("etc/motd")).unwrap(), b"hi");
    assert_eq!(images.get(&image.id.to_string()).unwrap().unwrap().manifest, image.manifest);
}

#[test]
fn a_name_may_be_given_and_names_and_layers_go_again() {
    let folder = Folder::new("names");
    let images = Images::open(folder.0.join("images")).unwrap();
    let archive = docker_archive(&folder);
    import(&images, &archive, Some("registry.example:5000/x:2"), 0).unwrap();
    import(&images, &archive, None, 0).unwrap();
    assert_eq!(images.list().unwrap().len(), 1);
    let image = images.get("registry.example:5000/x:2").unwrap().unwrap();
    images.prepare("c1", &image).unwrap();
    assert!(images.remove("registry.example:5000/x:2").unwrap());
    assert!(images.remove("local/hello:1").unwrap());
    assert!(!images.remove("local/hello:1").unwrap());
    assert_eq!(images.sweep().unwrap(), 0, "a container still stands on the layers");
    images.discard("c1").unwrap();
    assert_eq!(images.sweep().unwrap(), 2);
    assert!(images.list().unwrap().is_empty());
}

#[test]
fn an_oci_layout_folder_is_taken_and_a_wrong_blob_is_not() {
    let folder = Folder::new("layout");
    let layout = folder.0.join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let layer = tar_of(&[("hello", b"one")]);
    let config = config(&[&layer]);
    let descriptor = |bytes: &[u8]| json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let manifest = json!({"schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(&layer)]});
    let manifest = manifest.to_string().into_bytes();
    let put = |bytes: &[u8], content: &[u8]| {
        std::fs::write(layout.join("blobs/sha256").join(Digest::of(bytes).hex()), content).unwrap();
    };
    put(&config, &config);
    put(&manifest, &manifest);
    put(&layer, b"something else");
    let index = json!({"schemaVersion": 2, "manifests": [descriptor(&manifest)]}).to_string();
    std::fs::write(layout.join("index.json"), index).unwrap();
    let images = Images::open(folder.0.join("images")).unwrap();
    assert!(import(&images, &layout, Some("x:1"), 0).is_err());
    assert!(images.get("x:1").unwrap().is_none());
    put(&layer, &layer);
    assert!(matches!(import(&images, &layout, None, 0), Err(ImageError::Archive { .. })), "it has no name");
    import(&images, &layout, Some("x:1"), 0).unwrap();
    assert!(images.get("x:1").unwrap().is_some());
}

#[test]
fn a_corrupt_or_missing_part_means_that_the_image_is_not_there() {
    let folder = Folder::new("corrupt");
    let images = Images::open(folder.0.join("images")).unwrap();
    let image = import(&images, &docker_archive(&folder), None, 0).unwrap().remove(0);
    let blob = folder.0.join("images/blobs").join(image.id.hex());
    std::fs::write(&blob, "{}").unwrap();
    assert!(images.get("local/hello:1").unwrap().is_none());
    import(&images, &docker_archive(&folder), None, 0).unwrap();
    assert!(images.get("local/hello:1").unwrap().is_some());
}

#[test]
fn what_is_no_archive_is_told_so() {
    let folder = Folder::new("none");
    let images = Images::open(folder.0.join("images")).unwrap();
    let path = folder.0.join("x");
    std::fs::write(&path, "certainly not a tar archive").unwrap();
    assert!(import(&images, &path, None, 0).is_err());
    assert!(import(&images, &folder.0.join("absent"), None, 0).is_err());
    assert!(import(&images, &folder.0, None, 0).unwrap_err().to_string().contains("OCI layout"));
}
