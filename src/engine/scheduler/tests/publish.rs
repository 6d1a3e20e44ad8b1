//! Parts with all their bytes get their names in groups.

use std::ops::RangeInclusive;

use super::*;
use crate::domain::part::PartKey;
use crate::domain::resume::Plan;
use crate::domain::watch::{PartOrder, PartState};
use crate::engine::ids::PartId;
use crate::ports::{Sink as _, Upload as _};

impl Rig {
    /// Ends the downloads of an export's parts with all their bytes.
    async fn downloaded(&mut self, export: usize, numbers: RangeInclusive<u32>) {
        for number in numbers {
            let file_id = format!("file_{export}_{number}").parse().unwrap();
            let key = PartKey { number, file_id };
            let bytes = b"[123456789";
            let declared_bytes = Some(bytes.len().try_into().unwrap());
            let order = PartOrder { key: key.clone(), declared_bytes, resume: None };
            let at = self.scheduler.fleet.export(self.exports[export]).unwrap().path().clone();
            let mut upload = self.sink().begin(&at, &order, &Plan::FromStart).await.unwrap();
            upload.write(bytes).await.unwrap();
            let finished = upload.finish(declared_bytes, &[]).await.unwrap();
            let part = PartId { entry: self.exports[export], key };
            let end = TransferEvent::Downloaded(part, Ok(Ok(finished)));
            self.scheduler.apply(Event::Transfer(end));
        }
    }

    fn sink(&self) -> AnySink {
        let opened = LocalSink::open(self.folder.path(), None, SinkSettings::default());
        AnySink::Local(opened.unwrap().0)
    }

    fn states(&self, export: usize) -> Vec<&'static str> {
        let fetching = self.watch(export).fetching().expect("it is fetching");
        let word = |state: &PartState| match state {
            PartState::Queued => "queued",
            PartState::Active => "active",
            PartState::Waiting => "waiting",
            PartState::Recording(_) => "recording",
            _ => "other",
        };
        fetching.parts().map(|(_, part)| word(&part.state)).collect()
    }

    /// The parts of the group under way.
    fn group(&self) -> usize {
        self.scheduler.transfers.group_len()
    }

    fn admit_group(&mut self) {
        let now = self.now();
        self.scheduler.transfers.admit_group(now);
    }

    async fn end_of_group(&mut self) {
        let end = self.scheduler.transfers.group_end().await;
        self.scheduler.apply(Event::Transfer(TransferEvent::Published(end)));
    }
}

#[tokio::test]
async fn a_lone_part_waits_for_nobody_and_what_comes_meanwhile_is_one_group() {
    let mut rig = rig(&[1, 1], 8);
    rig.fetching(0, 4);
    rig.fetching(1, 2);
    rig.scheduler.admit();
    rig.downloaded(0, 1..=1).await;
    rig.admit_group();
    assert_eq!(rig.group(), 1);
    rig.downloaded(0, 2..=4).await;
    rig.downloaded(1, 1..=2).await;
    rig.admit_group();
    assert_eq!((rig.group(), rig.scheduler.transfers.len()), (1, 6));
    rig.end_of_group().await;
    assert_eq!(rig.states(0), ["recording", "active", "active", "active"]);
    rig.admit_group();
    assert_eq!(rig.group(), 5, "of both exports");
    rig.end_of_group().await;
    assert_eq!((rig.states(0), rig.states(1)), (vec!["recording"; 4], vec!["recording"; 2]));
    assert_eq!(rig.scheduler.transfers.len(), 0);
}

#[tokio::test]
async fn under_load_a_group_gathers_for_a_moment_and_no_longer() {
    let mut rig = rig(&[1], 8);
    rig.fetching(0, 9);
    rig.scheduler.admit();
    rig.downloaded(0, 1..=2).await;
    rig.admit_group();
    rig.end_of_group().await;
    rig.downloaded(0, 3..=3).await;
    rig.admit_group();
    assert_eq!(rig.group(), 0, "more parts are on their way");
    let until = rig.scheduler.transfers.gathers_until().unwrap();
    assert!(until <= rig.now() + Duration::from_millis(10));
    rig.scheduler.clock.sleep_until(Some(until)).await;
    rig.admit_group();
    assert_eq!(rig.group(), 1);
}

#[tokio::test]
async fn a_group_that_panics_costs_its_parts_an_attempt() {
    let mut rig = rig(&[1], 8);
    rig.fetching(0, 2);
    rig.scheduler.admit();
    rig.downloaded(0, 1..=2).await;
    rig.admit_group();
    drop(rig.scheduler.transfers.group_end().await);
    let end = TransferEvent::Published(Err(Panicked));
    rig.scheduler.apply(Event::Transfer(end));
    assert_eq!(rig.states(0), ["waiting", "waiting"]);
    assert_eq!(rig.scheduler.transfers.len(), 0);
}
