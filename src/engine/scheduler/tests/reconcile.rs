//! What runs is brought to what is configured.

use super::super::reconcile::JobEnd;
use super::*;
use crate::domain::ids::ExportKey;

impl Rig {
    /// Leaves so many exports of each project in the configuration.
    pub(super) fn leave(&mut self, exports_of_projects: &[usize]) {
        let desired = self.desired(exports_of_projects);
        self.scheduler.reconcile(desired, Recovered::default());
        self.all_written();
        self.scheduler.let_go();
    }
}

#[tokio::test]
async fn what_only_waits_is_forgotten_at_once_with_everything_that_names_it() {
    let mut rig = rig(&[3], 8);
    rig.fetching(1, 4);
    rig.scheduler.polls.ask_at(rig.exports[2], Duration::ZERO);
    rig.scheduler.apply(Event::Tick);
    rig.leave(&[0]);
    assert!((0..3).all(|export| !rig.is_known(export)));
    assert!(rig.scheduler.fleet.project(rig.projects[0]).is_empty());
    assert_eq!(rig.scheduler.fleet.project(rig.projects[0]).unsettled(), 0);
    assert_eq!((rig.scheduler.polls.wakes_at(), rig.scheduler.transfers.wakes_at()), (None, None));
    rig.scheduler.admit();
    assert!(rig.parts_under_way().is_empty() && rig.scheduler.polls.under_way() == 0);
}

#[tokio::test]
async fn a_view_under_way_comes_back_once_more_and_begins_nothing() {
    let mut rig = rig(&[1], 8);
    rig.goes_on();
    let call = rig.call_of(0);
    rig.leave(&[0]);
    assert!(rig.is_known(0), "its view is under way");
    rig.answered(call, 0, ViewOutcome::Fault("gone".to_owned()));
    assert_eq!(rig.scheduler.polls.due_at(rig.exports[0]), None);
    assert!(!rig.is_known(0));
}

#[tokio::test]
async fn a_folder_that_has_no_room_is_no_longer_waited_for() {
    let mut rig = rig(&[1], 8);
    rig.viewed(0, "SUCCESS", 1);
    let chore = rig.scheduler.folders.take_next();
    rig.scheduler.folders.pretend_running(chore);
    rig.leave(&[0]);
    assert!(rig.is_known(0), "a thread looks at its folder");
    rig.scheduler.folders.pretend_ended();
    rig.scheduler.apply(Event::Folder(FolderEvent::Chore(chore, Ok(prepared(10, 0)))));
    assert!(rig.scheduler.folders.parked().is_empty() && !rig.is_known(0));
}

#[tokio::test]
async fn an_export_that_is_configured_again_before_it_is_gone_goes_on() {
    let mut rig = rig(&[1], 8);
    rig.goes_on();
    let call = rig.call_of(0);
    rig.leave(&[0]);
    rig.leave(&[1]);
    rig.answered(call, 0, ViewOutcome::Fault("gone".to_owned()));
    assert!(rig.is_known(0) && rig.scheduler.polls.due_at(rig.exports[0]).is_some());
}

#[tokio::test]
async fn a_view_that_a_drain_ends_is_no_fault_of_the_api() {
    let mut rig = rig(&[1], 8);
    rig.goes_on();
    rig.scheduler.apply(Event::Stop);
    let (call, answer) = rig.scheduler.polls.next().await;
    assert!(answer.is_err());
    rig.scheduler.apply(Event::Answered(call, answer));
    assert_eq!(rig.scheduler.polls.due_at(rig.exports[0]), None, "it is not tried again");
}

#[tokio::test]
async fn a_refused_configuration_changes_nothing_and_its_cause_is_kept() {
    let mut rig = rig(&[1], 8);
    let answer = rig.asks_for(Err("wrong".to_owned()));
    assert_eq!(answer.await.unwrap(), Err("wrong".to_owned()));
    assert!(rig.is_known(0));
    assert_eq!(rig.scheduler.standing().reloads.refusal.as_deref(), Some("wrong"));
}

#[tokio::test]
async fn what_goes_while_a_configuration_is_looked_up_is_looked_up_as_well() {
    let mut rig = rig(&[1], 8);
    rig.goes_on();
    let call = rig.call_of(0);
    rig.leave(&[0]);
    // The first export is still known when the second one is looked up.
    let mut answer = rig.asks_for(Ok(Box::new(rig.desired(&[2]))));
    rig.scheduler.apply(Event::Answered(call, Err(Panicked)));
    assert!(!rig.is_known(0));
    rig.scheduler.apply(looked_up(&[1]));
    assert!(answer.try_recv().is_err(), "the first one has to be looked up, too");
    rig.scheduler.apply(looked_up(&[0]));
    let changes = answer.try_recv().unwrap().unwrap();
    assert_eq!(changes.exports_added, 2);
}

/// These exports of the first project were looked up, and nothing is known of them.
pub(super) fn looked_up(exports: &[u32]) -> Event {
    let project = ProjectDigest::of(&"project_0".parse().unwrap());
    let key =
        |number: &u32| ExportKey { project, export: format!("export_0_{number}").parse().unwrap() };
    let looked_up = exports.iter().map(key).collect();
    Event::Reconciler(JobEnd::LookedUp(Ok(Recovered { looked_up, ..Recovered::default() })))
}
