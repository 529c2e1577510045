//! What counts as a model in a folder.

use std::fs;
use std::os::unix::fs::symlink;

use model_api::repository::Selection;
use model_api::repository::{Repository, RepositoryEntry};

use crate::support::folder::Folder;

fn versions(found: &RepositoryEntry) -> Vec<&str> {
    found.versions.iter().map(|files| files.version.as_str()).collect()
}

fn find(folder: &Folder, name: &str) -> RepositoryEntry {
    Repository::new(folder.path()).find(name).unwrap()
}

fn rejection(folder: &Folder, name: &str) -> String {
    let found = find(folder, name);
    assert_eq!(versions(&found), [""; 0]);
    found.rejection.unwrap()
}

#[test]
fn a_model_is_a_file_or_a_folder_or_a_folder_of_versions() {
    let folder = Folder::new()
        .with("bare.onnx", "")
        .with("plain/model.onnx", "")
        .with("versions/v1/model.onnx", "")
        .with("versions/9/model.onnx", "")
        .with("versions/2024-06/model.onnx", "")
        .with("versions/10/model.onnx", "")
        .with("versions/samples/7.png", "")
        .with("both/model.onnx", "")
        .with("both/2/model.onnx", "")
        .with("README.md", "");
    let found = Repository::new(folder.path()).scan().unwrap();
    let all: Vec<_> = found.iter().map(|(name, found)| (name.as_str(), versions(found))).collect();
    assert_eq!(
        all,
        [
            ("bare", vec!["1"]),
            ("both", vec!["1", "2"]),
            ("plain", vec!["1"]),
            ("versions", vec!["2024-06", "v1", "9", "10"])
        ]
    );
}

#[test]
fn the_extension_may_be_in_any_case_and_ort_is_served_as_well() {
    let folder = Folder::new()
        .with("upper.ONNX", "")
        .with("own.ort", "")
        .with("folder/model.ORT", "")
        .with("versions/1/model.ort", "")
        .with("versions/2/model.Onnx", "")
        .with("both.onnx", "")
        .with("both.ort", "");
    let found = Repository::new(folder.path()).scan().unwrap();
    let all: Vec<_> = found.iter().map(|(name, found)| (name.as_str(), versions(found))).collect();
    let one = || vec!["1"];
    assert_eq!(
        all,
        [("both", one()), ("folder", one()), ("own", one()), ("upper", one()), ("versions", vec!["1", "2"])]
    );
    assert_eq!(found["folder"].versions[0].graph, Some(folder.path().join("folder/model.ORT")));
    assert_eq!(found["both"].versions[0].graph, Some(folder.path().join("both.onnx")));
    assert_eq!(found["both"].skipped, ["both.ort is skipped: both.onnx has precedence"]);
    assert_eq!(find(&folder, "upper"), found["upper"]);
}

#[test]
fn a_file_of_another_library_is_named_with_the_reason_and_data_files_are_not() {
    let folder = Folder::new()
        .with("m.onnx", "")
        .with("m.onnx.data", "")
        .with("notes.txt", "")
        .with("resnet.pt", "")
        .with("keras/model.h5", "");
    let found = Repository::new(folder.path()).scan().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["keras", "m", "resnet.pt"]);
    assert_eq!(
        rejection(&folder, "resnet.pt"),
        "\"resnet.pt\" is a file of PyTorch: only .onnx and .ort files are served, see docs/BRING_YOUR_MODEL.md for how to \
         export one"
    );
    let keras = rejection(&folder, "keras");
    assert!(keras.starts_with("its folder has no model.onnx; \"model.h5\" is a file of TensorFlow: only"), "{keras}");
}

#[test]
fn a_file_with_the_name_of_a_folder_or_version_is_skipped_with_a_note() {
    let folder = Folder::new().with("m.onnx", "").with("m/model.onnx", "").with("m/1/model.onnx", "");
    assert_eq!(
        find(&folder, "m").skipped,
        [
            "the graph in the folder itself is skipped: the version folder 1 has precedence",
            "m.onnx is skipped: the folder m has precedence"
        ]
    );
}

#[test]
fn tritons_configuration_applies_to_all_versions() {
    let folder = Folder::new().with("m/config.pbtxt", "").with("m/1/model.onnx", "").with("m/2/model.onnx", "");
    let config = Some(folder.path().join("m/config.pbtxt"));
    assert!(find(&folder, "m").versions.iter().all(|files| files.triton == config));
}

#[test]
fn the_settings_of_a_version_replace_those_of_the_model() {
    let folder = Folder::new()
        .with("m/model-settings.json", "{}")
        .with("m/1/model.onnx", "")
        .with("m/2/model.onnx", "")
        .with("m/2/model-settings.json", "{}");
    let found = find(&folder, "m");
    let settings: Vec<_> = found.versions.iter().map(|files| files.settings.clone().unwrap()).collect();
    assert_eq!(settings, [folder.path().join("m/model-settings.json"), folder.path().join("m/2/model-settings.json")]);
}

#[test]
fn a_folder_has_precedence_over_a_file_of_the_same_name() {
    let folder = Folder::new().with("m.onnx", "").with("m/3/model.onnx", "");
    assert_eq!(versions(&find(&folder, "m")), ["3"]);
}

#[test]
fn a_folder_that_looks_like_a_model_is_rejected_with_a_reason() {
    let folder = Folder::new()
        .with("empty/README.md", "")
        .with("resnet/resnet50.onnx", "")
        .with("my model/model.onnx", "")
        .with("odd/two words/model.onnx", "");
    assert_eq!(rejection(&folder, "empty"), "its folder has no model.onnx, and no version folder that has one");
    assert_eq!(
        rejection(&folder, "resnet"),
        "its folder has no model.onnx; rename \"resnet50.onnx\" if it is the model"
    );
    assert!(rejection(&folder, "my model").starts_with("a model's name consists of"));
    assert!(rejection(&folder, "odd").starts_with("its folder has no model.onnx"));
}

#[test]
fn hidden_names_and_paths_outside_the_folder_are_not_models() {
    let folder = Folder::new()
        .with(".part/model.onnx", "")
        .with(".hidden.onnx", "")
        .with("m/.3/model.onnx", "")
        .with("m/2/model.onnx", "");
    let found = Repository::new(folder.path()).scan().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["m"]);
    assert_eq!(versions(&found["m"]), ["2"]);
    for name in ["", ".", "..", ".part", "m/2", "../m", "/etc", "m\0", "%2e%2e"] {
        assert_eq!(Repository::new(folder.path()).find(name), None, "{name:?}");
    }
}

#[test]
fn models_and_versions_may_be_links() {
    let folder = Folder::new().with(".store/a/model.onnx", "").with("m/1/model.onnx", "");
    symlink(".store/a", folder.path().join("linked")).unwrap();
    symlink("1", folder.path().join("m/latest")).unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    let found = Repository::new(folder.path()).scan().unwrap();
    let all: Vec<_> = found.iter().map(|(name, found)| (name.as_str(), versions(found))).collect();
    assert_eq!(all, [("linked", vec!["1"]), ("m", vec!["latest", "1"])]);
}

#[test]
fn an_unknown_name_stops_the_start_with_the_available_names() {
    let folder = Folder::new().with("a.onnx", "").with("b/model.onnx", "").with("c/c.onnx", "");
    let select = |names: &[&str]| {
        let names = Selection::Names(names.iter().map(|&name| name.to_owned()).collect());
        Repository::new(folder.path()).select_models(&names).map(|models| models.into_keys().collect::<Vec<_>>())
    };
    assert_eq!(select(&["b"]).unwrap(), ["b"]);
    assert_eq!(
        select(&["b", "x"]).unwrap_err().to_string(),
        "MODEL_NAME: there is no model \"x\"; available models: a, b"
    );
    let unnamed = select(&["c"]).unwrap_err().to_string();
    assert!(unnamed.contains("\"c\", as its folder has no model.onnx; rename \"c.onnx\""), "{unnamed}");
    fs::remove_file(folder.path().join("a.onnx")).unwrap();
    fs::remove_dir_all(folder.path().join("b")).unwrap();
    let none = Repository::new(folder.path()).select_models(&Selection::All).unwrap_err().to_string();
    assert!(none.starts_with("MODELS_DIR: there is no model:"), "{none}");
}
