//! The two files that tell a consumer how an export ended: `manifest.json` and `failed.json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::checksum::Check;
use super::failure::Failure;
use super::ids::{ExportId, ExportPath, FileId, ProjectName};
use super::part::{CommittedPart, PartKey, Sha256};
use super::report::ReportFacts;

/// File name of the manifest; its presence means that the export is whole.
pub const MANIFEST_FILE: &str = "manifest.json";
/// File name of the notice that an export failed.
pub const FAILED_FILE: &str = "failed.json";
const FORMAT_VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub project: ProjectName,
    pub export_id: ExportId,
    // What the API says, as [`ReportFacts`] has it.
    pub scope: Option<String>,
    pub request: Option<Box<RawValue>>,
    pub request_date: Option<Timestamp>,
    pub start_date: Option<Timestamp>,
    pub completion_date: Option<Timestamp>,
    pub sealed_at: Timestamp,
    pub parts: Vec<ManifestPart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPart {
    pub part: u32,
    pub file_id: FileId,
    pub path: String,
    pub bytes: u64,
    pub declared_bytes: Option<u64>,
    pub sha256: Sha256,
    pub verified_by: Vec<Check>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("not a manifest: {0}")]
    Shape(#[from] serde_json::Error),
    #[error("manifest version {0} is not supported by this version of the program")]
    Version(u32),
    #[error("the path of part {0} does not match its number and file ID")]
    Path(u32),
}

impl Manifest {
    /// The manifest of an export whose parts are all committed; `parts` in any order.
    pub fn seal(
        path: ExportPath,
        facts: ReportFacts,
        mut parts: Vec<CommittedPart>,
        sealed_at: Timestamp,
    ) -> Self {
        let ExportPath { project, export: export_id } = path;
        parts.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            version: FORMAT_VERSION,
            project,
            export_id,
            scope: facts.scope,
            request: facts.request,
            request_date: facts.request_date,
            start_date: facts.start_date,
            completion_date: facts.completion_date,
            sealed_at,
            parts: parts.into_iter().map(ManifestPart::from).collect(),
        }
    }

    /// The exact text that goes to disk and into the state: JSON with a newline at its end.
    pub fn to_text(&self) -> String {
        to_json(self)
    }

    /// Reads a manifest back: JSON of this shape and version, with paths that are ours.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.version != FORMAT_VERSION {
            return Err(ManifestError::Version(manifest.version));
        }
        match manifest.parts.iter().find(|part| part.path != part.key().file_name()) {
            Some(part) => Err(ManifestError::Path(part.part)),
            None => Ok(manifest),
        }
    }
}

impl ManifestPart {
    pub fn key(&self) -> PartKey {
        PartKey { number: self.part, file_id: self.file_id.clone() }
    }
}

impl From<CommittedPart> for ManifestPart {
    fn from(part: CommittedPart) -> Self {
        Self {
            part: part.key.number,
            path: part.key.file_name(),
            file_id: part.key.file_id,
            bytes: part.bytes,
            declared_bytes: part.declared_bytes,
            sha256: part.sha256,
            verified_by: part.verified_by,
        }
    }
}

impl From<ManifestPart> for CommittedPart {
    fn from(part: ManifestPart) -> Self {
        Self {
            key: part.key(),
            bytes: part.bytes,
            declared_bytes: part.declared_bytes,
            sha256: part.sha256,
            verified_by: part.verified_by,
        }
    }
}

pub fn failure_notice(at: &ExportPath, failure: &Failure) -> String {
    #[derive(Serialize)]
    struct Notice<'a> {
        version: u32,
        project: &'a ProjectName,
        export_id: &'a ExportId,
        kind: &'static str,
        cause: &'a str,
        error_code: Option<&'a str>,
        failed_at: Timestamp,
    }
    to_json(&Notice {
        version: FORMAT_VERSION,
        project: &at.project,
        export_id: &at.export,
        kind: failure.kind.as_str(),
        cause: &failure.cause,
        error_code: failure.error_code.as_deref(),
        failed_at: failure.at,
    })
}

fn to_json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value)
        .expect("plain structs with string keys always serialize");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, id: &str) -> CommittedPart {
        CommittedPart {
            key: PartKey { number, file_id: id.parse().unwrap() },
            bytes: 3,
            declared_bytes: Some(3),
            sha256: Sha256::new([7; 32]),
            verified_by: vec![Check::Size, Check::Md5],
        }
    }

    fn manifest() -> Manifest {
        let request = RawValue::from_string("{\"export_type\": \"ATTRIBUTES\"}".to_owned());
        let facts = ReportFacts { request: Some(request.unwrap()), ..ReportFacts::default() };
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let path =
            ExportPath { project: "shop".parse().unwrap(), export: "export_1".parse().unwrap() };
        Manifest::seal(path, facts, vec![part(2, "b"), part(1, "a")], at)
    }

    #[test]
    fn a_manifest_reads_back_in_part_order_with_its_request_verbatim() {
        let text = manifest().to_text();
        let back = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(back.parts.iter().map(|part| part.part).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(back.request.unwrap().get(), "{\"export_type\": \"ATTRIBUTES\"}");
        assert!(text.contains("\"sealed_at\": \"2026-01-02T03:04:05Z\""), "{text}");
        assert!(text.contains("\"verified_by\": [\n        \"size\",\n        \"md5\""), "{text}");
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn a_manifest_with_foreign_paths_is_refused() {
        let text = manifest().to_text();
        let escaped = text.replace("part-00001-a.json", "../../etc/passwd");
        assert!(matches!(Manifest::parse(escaped.as_bytes()), Err(ManifestError::Path(1))));
        let newer = text.replace("\"version\": 1", "\"version\": 9");
        assert!(matches!(Manifest::parse(newer.as_bytes()), Err(ManifestError::Version(9))));
    }
}
