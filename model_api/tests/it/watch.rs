//! A folder of models that changes while the service runs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use model_api::registry::watch::RepositoryWatcher;
use model_api::repository::Repository;
use model_api::repository::Selection;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::support::fake::Fake;
use crate::support::folder::Folder;
use crate::support::router::Service;

const PAUSE: Duration = Duration::from_millis(25);

/// Longer than the detector takes to report a change.
const LONG: Duration = Duration::from_millis(250);

struct Watched {
    service: Service,
    fake: Fake,
    watch: JoinHandle<()>,
}

impl Watched {
    async fn new(folder: Folder, selection: Selection) -> Self {
        let (fake, watch) = (Fake::default(), RepositoryWatcher::new(Repository::new(folder.path()), selection));
        let service = Service::new(folder, &fake).warm().await;
        let watch = tokio::spawn(watch.run(Arc::clone(&service.models), PAUSE));
        Self { service, fake, watch }
    }

    fn digest(&self, name: &str) -> Option<String> {
        self.service.models.get(name, None).ok().map(|model| model.digest.clone())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.service.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let happened = async {
            while !what(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(20), happened).await.expect("the condition holds in time");
    }

    async fn until_changed(&self, name: &str, old: Option<String>) -> Option<String> {
        self.until(|watched| watched.digest(name).is_some_and(|digest| Some(digest) != old)).await;
        self.digest(name)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// A graph of many small fields, so that each prefix of it is a valid but wrong model.
fn long_graph() -> Vec<u8> {
    [8, 1].repeat(4096)
}

#[tokio::test]
async fn an_added_folder_is_served_and_a_removed_one_is_not() {
    let watched = Watched::new(Folder::new().with("m.onnx", ""), Selection::All).await;
    watched.write("new/1/model.onnx", [8, 1]);
    watched.until(|watched| watched.digest("new").is_some()).await;
    watched.write("new/2/model.onnx", [8, 2]);
    watched.until(|watched| watched.service.models.versions("new") == ["1", "2"]).await;
    fs::remove_dir_all(watched.service.folder.path().join("new")).unwrap();
    watched.until(|watched| !watched.service.models.contains("new")).await;
    watched.write("m/model.onnx", "");
    fs::remove_file(watched.service.folder.path().join("m.onnx")).unwrap();
    sleep(LONG).await;
    assert!(watched.digest("m").is_some(), "a file that became a folder was never gone");
    assert_eq!(watched.service.models.not_ready_reason(), None);
}

#[tokio::test]
async fn a_file_that_is_copied_slowly_is_loaded_once_and_whole() {
    let watched = Watched::new(Folder::new().with("m/model.onnx", ""), Selection::All).await;
    let old = watched.digest("m");
    let mut copy = File::create(watched.service.folder.path().join("m/model.onnx")).unwrap();
    for piece in long_graph().chunks(512) {
        copy.write_all(piece).unwrap();
        sleep(PAUSE / 2).await;
        assert!(watched.fake.launches() == 1 && watched.digest("m") == old, "a piece of a file was loaded");
    }
    let new = watched.until_changed("m", old).await;
    sleep(LONG).await;
    assert_eq!((watched.fake.launches(), watched.digest("m")), (2, new.clone()));
    let whole = Watched::new(Folder::new().with("m/model.onnx", long_graph()), Selection::All).await;
    assert_eq!(whole.digest("m"), new);
}

#[tokio::test]
async fn renamed_files_and_retargeted_links_are_loaded() {
    let folder = Folder::new().with(".a/model.onnx", [8, 1]).with(".b/model.onnx", [8, 2]).with("m/model.onnx", "");
    symlink(".a", folder.path().join("link")).unwrap();
    let watched = Watched::new(folder, Selection::All).await;
    let path = watched.service.folder.path();
    let (renamed, turned) = (watched.digest("m"), watched.digest("link"));
    watched.write(".new", [8, 3]);
    fs::rename(path.join(".new"), path.join("m/model.onnx")).unwrap();
    symlink(".b", path.join(".link")).unwrap();
    fs::rename(path.join(".link"), path.join("link")).unwrap();
    let renamed = watched.until_changed("m", renamed).await;
    watched.until_changed("link", turned).await;
    watched.write(".c/model.onnx", [8, 4]);
    fs::rename(path.join("m"), path.join(".old")).unwrap();
    fs::rename(path.join(".c"), path.join("m")).unwrap();
    watched.until_changed("m", renamed).await;
}

#[tokio::test]
async fn a_failed_load_is_retried_only_after_a_change() {
    let watched = Watched::new(Folder::new().with("m/model.onnx", ""), Selection::All).await;
    let old = watched.digest("m");
    let failure = model_api::session::StartError::Model("no such operator".to_owned());
    watched.fake.failures.lock().unwrap().push_back(failure);
    watched.write("m/model.onnx", [8, 1]);
    watched.until(|watched| watched.fake.launches() == 2).await;
    sleep(LONG).await;
    assert_eq!((watched.fake.launches(), watched.digest("m")), (2, old.clone()));
    watched.write("m/model.onnx", [8, 2]);
    watched.until_changed("m", old).await;
}

#[tokio::test]
async fn only_selected_and_requested_models_are_watched() {
    let folder = Folder::new().with("m.onnx", "");
    let watched = Watched::new(folder, Selection::Names(vec!["m".to_owned(), "later".to_owned()])).await;
    watched.write("other/model.onnx", [8, 1]);
    watched.write("junk/README.md", "no model");
    watched.write("later/model.onnx", [8, 1]);
    watched.until(|watched| watched.digest("later").is_some()).await;
    sleep(LONG).await;
    assert_eq!(watched.service.models.names(), ["later", "m"]);
    watched.service.models.load("other").await.unwrap();
    let asked_for = watched.digest("other");
    watched.write("other/model.onnx", [8, 2]);
    watched.until_changed("other", asked_for).await;
}

#[tokio::test]
async fn an_unloaded_model_stays_unloaded() {
    let watched = Watched::new(Folder::new().with("m/model.onnx", "").with("n.onnx", ""), Selection::All).await;
    watched.service.models.unload("m").await.unwrap();
    watched.write("m/model.onnx", [8, 1]);
    sleep(LONG).await;
    assert_eq!(watched.digest("m"), None);
    watched.service.models.load("m").await.unwrap();
    let loaded = watched.digest("m");
    watched.write("m/model.onnx", [8, 2]);
    watched.until_changed("m", loaded).await;
}

#[tokio::test]
async fn an_unreadable_folder_unloads_nothing() {
    let watched = Watched::new(Folder::new().with("m.onnx", ""), Selection::All).await;
    let path = watched.service.folder.path().to_owned();
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    sleep(LONG).await;
    assert!(watched.digest("m").is_some(), "not there");
    fs::create_dir(&path).unwrap();
    sleep(LONG).await;
    assert!(watched.digest("m").is_some(), "another one in its place, and empty: a mount that has gone");
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    fs::write(path.join("m.onnx"), [8, 1]).unwrap();
    watched.until_changed("m", watched.digest("m")).await;
}
