//! No fault, warning or rendering shows a secret, whatever is in the file.

use proptest::prelude::*;

use super::super::scene::{SECRET, Scene, holds, shop};

#[test]
fn the_shown_configuration_can_be_loaded_and_holds_no_secret() {
    let scene = Scene::with_environment(&[("NAME", SECRET)]);
    let long_key = "project_0123456789abcdef";
    let text = shop(&format!(
        "exports = [\"export_1\"]\n[[project]]\nname = \"b\"\n\
         project_key = \"{long_key}\"\nrest_api_key_env = \"NAME\"\n\
         [download]\nbandwidth = \"1MiB/s\"\nallowed_hosts = [\"minio\"]\n"
    ));
    let config = scene.load(&text).unwrap();
    let shown = config.show();
    assert!(!shown.contains(SECRET) && !shown.contains(long_key), "{shown}");
    assert!(!format!("{config:?}").contains(SECRET) && !format!("{config:?}").contains(long_key));
    holds(&shown, "project_key = \"project_…\"");
    holds(&shown, "rest_api_key_env = \"NAME\"");
    let keys = ["project_0123456789", long_key];
    let mut restored = shown;
    for (project, key) in config.projects.iter().zip(keys) {
        restored = restored.replacen(&project.project_key.shortened(), key, 1);
    }
    assert_eq!(scene.load(&restored).unwrap(), config, "{restored}");
}

/// A configuration in which [`SECRET`] is wherever somebody may paste a key.
const FULL_OF_SECRETS: &str = r#"[api]
connect_timeout = "soon"
[poll]
min_interval = "0s"
[download]
allowed_hosts = ["minio/9000", 'minio:1']
[[project]]
name = "Shop one"
project_key = "s3cret s3cret"
rest_api_key = "s3cret"
rest_api_key_file = "s3cret"
rest_api_key_credential = "s3cret"
exports = ["two words", "two words"]
[[project]]
name = "b"
project_key = "s3cret s3cret"
rest_api_key_env = "s3cret"
"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_damage_to_the_file_makes_a_fault_show_a_secret(
        at in 0..FULL_OF_SECRETS.len(), cut in 0_usize..4, insert in "[\"'\\[\\]{}=.,#\\\\ \n\r0-9+-]{0,3}",
    ) {
        let mut text = FULL_OF_SECRETS.to_owned();
        text.replace_range(at..(at + cut).min(FULL_OF_SECRETS.len()), &insert);
        // If the damage turns a secret into the name of a key, it is shown.
        let as_name = text.lines().any(|line| {
            let name = line.split('=').next().unwrap_or_default();
            name.contains(SECRET) || line.contains('{')
        });
        let shown = Scene::new().load(&text).unwrap_err().to_string();
        prop_assert!(as_name || !shown.contains(SECRET), "{}\n{}", text, shown);
    }

    #[test]
    fn no_text_panics_the_loader(text in "\\PC{0,60}", lines in prop::collection::vec("[a-z_]{1,8} = [\"0-9a-z\\[{]{1,6}", 0..5)) {
        let scene = Scene::new();
        let _ = scene.load(&text);
        let _ = scene.load(&format!("[api]\n{}", lines.join("\n")));
    }
}
