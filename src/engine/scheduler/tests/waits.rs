//! Whoever stands aside comes back when its way opens, and a stop begins nothing.

use super::*;
use crate::engine::transfers::News;

impl Rig {
    /// The next download ends. Nobody listens there, so each attempt fails by itself.
    async fn download_ends(&mut self) {
        let event = self.scheduler.transfers.next().await;
        self.scheduler.apply(Event::Transfer(event));
    }

    /// The export fails for good.
    fn fails(&mut self, export: usize) {
        self.viewed(export, "ERROR", 0);
        self.chore_ends(ChoreEnd::NoticeWritten);
        self.all_written();
    }
}

#[tokio::test]
async fn parts_of_a_retried_export_do_not_wait_as_those_of_the_failed_one_did() {
    let mut rig = rig(&[1], 8);
    rig.fetching(0, 40);
    for _ in 0..2 {
        rig.scheduler.admit();
        assert_eq!(rig.parts_under_way().len(), 8);
        for _ in 0..8 {
            rig.download_ends().await;
        }
    }
    rig.scheduler.admit();
    assert!(rig.parts_under_way().is_empty(), "after so many faults the others wait");
    rig.fails(0);
    let export = rig.watch(0).path().export.clone();
    let (reply, _answer) = oneshot::channel();
    rig.scheduler.controlled(Control::Retry { exports: [export].into(), reply });
    rig.chore_ends(ChoreEnd::NoticeRemoved);
    rig.fetching(0, 4);
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0; 4]);
}

#[tokio::test]
async fn a_project_whose_parts_lie_on_another_store_does_not_wait_for_the_first() {
    let mut rig = rig(&[1], 8);
    rig.fetching(0, 4);
    let (project, entry, now) = (rig.projects[0], rig.exports[0], rig.now());
    let retry_after = Some(Duration::from_hours(1));
    let busy = Hold::StoreBusy { host: "one.example".into(), status: 503, retry_after };
    rig.scheduler.gates.hold(project, busy, now);
    rig.scheduler.admit();
    assert!(rig.parts_under_way().is_empty());
    let news = News::StoreAnswered { project, entry, host: "two.example".to_owned() };
    rig.scheduler.apply(Event::Transfer(TransferEvent::News(news)));
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0; 4]);
}

#[tokio::test]
async fn when_a_project_is_done_the_others_share_its_calls_at_once() {
    let mut rig = rig(&[100, 1], 8);
    rig.all_ask();
    rig.scheduler.admit();
    assert_eq!(rig.scheduler.polls.under_way(), 17, "half of the calls for each");
    rig.fails(100);
    rig.scheduler.admit();
    assert_eq!(rig.scheduler.polls.under_way(), 32);
}

#[tokio::test]
async fn a_stop_ends_a_reload_that_still_looks_things_up() {
    let mut rig = rig(&[1], 8);
    let mut answer = rig.asks_for(Ok(Box::new(rig.desired(&[2]))));
    rig.scheduler.apply(Event::Stop);
    rig.scheduler.apply(reconcile::looked_up(&[1]));
    assert!(answer.try_recv().is_err(), "who asked hears nothing");
    assert_eq!(rig.scheduler.fleet.counts().watching, 1);
}
