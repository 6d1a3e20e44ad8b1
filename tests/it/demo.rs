//! The demo, as a newcomer runs it.

use std::time::Duration;

use super::support::process::Watcher;

#[tokio::test]
async fn the_demo_shows_the_whole_job_and_leaves_it_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
    command.args(["demo", "--dir"]).arg(folder.path()).env_clear();
    let (code, output) = Watcher::spawn(command).wait_within(Duration::from_secs(180)).await;
    assert_eq!(code, 0, "{output:?}");
    let shop = folder.path().join("exports/shop");
    for (export, parts) in [("export_customers", 3), ("export_events", 1), ("export_newsletter", 1)]
    {
        let names: Vec<_> = std::fs::read_dir(shop.join(export)).unwrap().flatten().collect();
        assert_eq!(names.len(), parts + 1, "{export}: {names:?}");
        let manifest = std::fs::read_to_string(shop.join(export).join("manifest.json")).unwrap();
        assert_eq!(manifest.matches("\"sha256\"").count(), parts, "{export}");
    }
    let names: Vec<_> = std::fs::read_dir(shop.join("export_broken")).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(names[0].file_name(), "failed.json");
    let printed = output.stdout.join("\n");
    for words in [
        "shop/export_customers/part-00003-file_customers_c.json",
        "shop/export_events/manifest.json",
        "shop/export_broken/failed.json",
        "The manifest of export_customers:",
        "\"md5\"",
    ] {
        assert!(printed.contains(words), "{words} is not among\n{printed}");
    }
}
