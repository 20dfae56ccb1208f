//! How a session gets into the CLI and out of it: created, resumed, changed, left.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::debug;

use super::session::{Session, Stored};
use crate::{
    backend::{self, Backend, Link},
    copilot::{
        Method, Rejection,
        event::ModelChange,
        method::{
            Create, Created, Detach, GetMetadata, GetModel, GetSnapshot, IsProcessing, ModelState,
            RegisterInterest, Resume, SetMode, SetName, SwitchModel, UpdateOptions, ValidateTools,
        },
        settings::{EmptyOptions, Parameters},
    },
    session::{
        blueprint::Blueprint,
        error::Error,
        turn::{Active, TurnCause, TurnError},
    },
};

impl Session {
    /// The session has another model, or thinks for longer, because another client of the CLI has seen to it, or the CLI itself. It
    /// is to have it when it is loaded again.
    pub(in crate::session) fn model_changed(self: &Arc<Self>, change: &ModelChange) {
        if self.has_model(change.new_model.clone(), change.reasoning_effort.clone()) {
            self.record_changed();
        }
    }

    /// Notes the model that it has, and how long it thinks, as far as they are known. Says whether that is news.
    fn has_model(&self, model: Option<String>, effort: Option<Option<String>>) -> bool {
        let blueprint = self.blueprint();
        let mut changed = Blueprint::clone(&blueprint);
        changed.settings.model = model.or(changed.settings.model);
        changed.settings.reasoning_effort = effort.unwrap_or(changed.settings.reasoning_effort);
        let news = changed != *blueprint;
        if news {
            self.redraw(changed);
        }
        news
    }

    /// Changes its model, and how much that thinks, while no turn runs.
    pub(in crate::session) async fn update(
        &self,
        link: &Link,
        blueprint: Blueprint,
    ) -> Result<(), backend::Error> {
        let before = self.blueprint();
        let (before, now) = (&before.settings, &blueprint.settings);
        if (&now.model, &now.reasoning_effort) != (&before.model, &before.reasoning_effort) {
            let model_id = match &now.model {
                Some(model) => model.clone(),
                None => self.current_model(link).await?,
            };
            let reasoning_effort = now.reasoning_effort.as_deref();
            let switch = SwitchModel { session_id: self.cli_id(), model_id: &model_id, reasoning_effort };
            self.call(link, &switch).await?;
        }
        self.redraw(blueprint);
        Ok(())
    }

    /// The model that the CLI has chosen for it.
    async fn current_model(&self, link: &Link) -> Result<String, backend::Error> {
        let ModelState { model_id, .. } = self.call(link, &GetModel { session_id: self.cli_id() }).await?;
        let problem = || "the session has no model".to_owned();
        model_id.ok_or_else(|| backend::Error::Protocol { method: GetModel::NAME, problem: problem() })
    }

    /// Gives it a title. The CLI tells of it too, but not necessarily before it answers.
    pub(in crate::session) async fn name(&self, link: &Link, title: &str) -> Result<(), backend::Error> {
        self.call(link, &SetName { session_id: self.cli_id(), name: title }).await?;
        title.clone_into(&mut self.lock().title);
        Ok(())
    }

    /// Creates the session in the CLI.
    pub(in crate::session) async fn create(self: &Arc<Self>, link: &Arc<Link>) -> Result<(), backend::Error> {
        let blueprint = self.blueprint();
        let created = self.call(link, &Create(self.parameters(&blueprint))).await?;
        self.complete(link, created).await
    }

    /// Whether the caller's own tools can be declared: with one that is named like a built-in tool, every turn would fail.
    pub(in crate::session) async fn validate_tools(&self, link: &Link) -> Result<(), backend::Error> {
        if self.blueprint().settings.tools.iter().all(|tool| tool.overrides_builtin) {
            return Ok(());
        }
        match self.call(link, &ValidateTools { session_id: self.cli_id() }).await {
            Err(error @ backend::Error::Rejected(Rejection::InvalidParameter(_))) => Err(error),
            // A CLI may lack it; and what else is wrong, such as a server that does not answer, is the turn's to tell.
            _ => Ok(()),
        }
    }

    /// Calls the CLI for this session. It may quote a secret in its refusal, which is told to the caller. Once the session is
    /// deleted nothing is called any more: the CLI may have another one of this id.
    pub(in crate::session) async fn call<M: Method>(
        &self,
        link: &Link,
        params: &M,
    ) -> Result<M::Output, backend::Error> {
        self.refuse_if_gone()?;
        link.call(params).await.map_err(|error| self.redacted(error))
    }

    /// The same, with a time limit of its own.
    pub(in crate::session) async fn call_within<M: Method>(
        &self,
        limit: Duration,
        link: &Link,
        params: &M,
    ) -> Result<M::Output, backend::Error> {
        self.refuse_if_gone()?;
        link.call_within(limit, params).await.map_err(|error| self.redacted(error))
    }

    fn refuse_if_gone(&self) -> Result<(), backend::Error> {
        if self.gone().is_cancelled() {
            return Err(backend::Error::Rejected(Rejection::SessionNotFound));
        }
        Ok(())
    }

    /// What of an error may be told.
    pub(in crate::session) fn redacted(&self, error: backend::Error) -> backend::Error {
        match error {
            backend::Error::Rejected(rejection) => {
                backend::Error::Rejected(rejection.map(|text| self.blueprint().settings.redact(&text)))
            }
            other => other,
        }
    }

    /// The link that the session has, for as long as that lives, be its CLI replaced by another or not; if it has none, as
    /// [`load`](Self::load). For who does not have the session's place: what is under way stays where it is.
    ///
    /// # Cancel safety
    /// As of [`load`](Self::load).
    pub(in crate::session) async fn reach(self: &Arc<Self>) -> Result<Arc<Link>, TurnCause> {
        match self.reachable() {
            Some(link) => Ok(link),
            None => self.load().await,
        }
    }

    /// A link that the session is attached to: the one it has, or a new one on which it is resumed first. If a turn is under
    /// way, the CLI is to go on with it. A link that is lost meanwhile is no reason to fail: nothing was asked of the agent.
    /// Where another CLI has taken the place of the one that it is in, it moves, unless too many others do so: so this is for who has
    /// its place.
    ///
    /// # Cancel safety
    /// Dropping it may leave the session attached without our knowing, and the next call attaches it again.
    pub(in crate::session) async fn load(self: &Arc<Self>) -> Result<Arc<Link>, TurnCause> {
        let mut tries = 0..LOAD_TRIES;
        loop {
            tries.next();
            match self.load_once().await {
                Err(TurnCause::Backend(
                    // Where it was there a moment ago, another server has closed or deleted it.
                    error @ (backend::Error::Lost { .. }
                    | backend::Error::Rejected(Rejection::SessionNotFound)),
                )) if !tries.is_empty() => {
                    debug!(session = %self.id(), %error, "loading the session once more");
                }
                loaded => return loaded,
            }
        }
    }

    async fn load_once(self: &Arc<Self>) -> Result<Arc<Link>, TurnCause> {
        if !self.is_to_leave() {
            let link = self.home().await?.connected().await?;
            if self.is_attached(&link) {
                return Ok(link);
            }
        }
        // Boxed, because it is large, and rare.
        Box::pin(self.load_anew()).await
    }

    async fn load_anew(self: &Arc<Self>) -> Result<Arc<Link>, TurnCause> {
        let _loading = self.loading.lock().await;
        if self.is_to_leave()
            && let Some(old) = self.reachable()
        {
            self.detach_or_log(&old).await;
            self.unloaded();
        }
        let home = self.home().await?;
        let link = home.connected().await?;
        if self.is_attached(&link) {
            return Ok(link);
        }
        // It may have been deleted while it was waited for.
        if self.gone().is_cancelled() {
            return Err(self.why_gone());
        }
        let mut moving = None;
        if let Some(old) = self.reachable() {
            // One that is to be in another CLI's home cannot stay for now.
            if self.has_its_folder_in(&home) {
                moving = home.begin_move();
                if moving.is_none() {
                    return Ok(old);
                }
            }
            // Two that have it loaded would write its history both (cli-protocol.md, section 10).
            self.detach_or_log(&old).await;
            self.unloaded();
        }
        debug!(session = %self.id(), "loading the session again");
        self.bring_to(&home).await?;
        let stored = self.lock().stored;
        let loaded = match self.resume(&link, stored).await {
            Ok(resumed) => self.resumed(&link, resumed).await,
            // The CLI has not stored it, because it holds no message, or lost its first turn: a new one is the same.
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) if stored < Stored::Yes => {
                if let deleted @ TurnCause::NotFound(_) = self.why_lost(&home).await {
                    return Err(deleted);
                }
                self.nothing_is_left();
                self.create(&link).await
            }
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => {
                return Err(self.why_lost(&home).await);
            }
            Err(error) => Err(error),
        };
        match loaded {
            // Another server has deleted it at that moment, which the CLI complains about in many ways (observed).
            Err(backend::Error::Rejected(_)) if stored == Stored::Yes && self.is_not_stored(&link).await => {
                return Err(self.why_lost(&home).await);
            }
            loaded => loaded?,
        }
        let went_on = self.lock().gap.is_some();
        if went_on {
            self.fill_gap(&link).await;
        } else {
            self.lock().hub.reloaded();
        }
        self.stop_abandoned(&link).await;
        drop(moving);
        Ok(link)
    }

    /// Why its CLI does not have it: another server has deleted it, or it is lost. The record of a lost one stays, because the CLI may
    /// get its files back.
    async fn why_lost(&self, home: &Backend) -> TurnCause {
        let session = self.id().clone();
        match self.means.store.find(self.key.tenant().as_str(), session.as_str()).await {
            Ok(Some(record)) if Some(record.ownership.uid) == self.uid() => {
                TurnCause::Lost { session, cli: home.name().to_owned() }
            }
            Ok(_) => TurnCause::NotFound(session),
            Err(error) => TurnCause::Store(error),
        }
    }

    /// Stops an agent that goes on with a turn which was cut, because the CLI has not noticed that the link was lost, or a
    /// compaction. To a session that does nothing it does nothing.
    async fn stop_abandoned(&self, link: &Link) {
        let abandoned = std::mem::take(&mut self.lock().abandoned);
        if !abandoned {
            return;
        }
        // Also what waits in the CLI's queue, which `session.abort` empties: before the compaction that it may wait for.
        self.stop_agent(link).await;
        if let Err(error) = self.stop_compaction(link).await {
            debug!(session = %self.id(), %error, "a compaction that was cut could not be stopped");
        }
    }

    /// It was loaded, as it is: with the model that it has by now, and maybe with another client's turn.
    async fn resumed(self: &Arc<Self>, link: &Arc<Link>, created: Created) -> Result<(), backend::Error> {
        if let Some(ModelState { model_id, reasoning_effort }) = &created.model_state {
            self.has_model(model_id.clone(), reasoning_effort.clone().map(Some));
        }
        self.complete(link, created).await?;
        let ours = self.lock().current.as_deref().is_some_and(Active::is_sent);
        if !ours {
            self.look_at_others().await;
        }
        Ok(())
    }

    fn is_attached(&self, link: &Link) -> bool {
        self.lock().is_loaded_on(link.id())
    }

    /// Leaves a CLI that is to end, if it is still in that and nobody uses it. Who reads it hears that it has to be loaded again.
    /// Says whether it has left.
    pub(in crate::session) async fn evacuate(&self, link: &Link) -> bool {
        let _loading = self.loading.lock().await;
        if self.attached().is_some_and(|attached| attached.id() == link.id()) {
            // A turn of it may have begun there, because others were moving.
            if link.is_used() {
                return false;
            }
            self.detach_or_log(link).await;
            self.link_lost(link.id(), "its CLI has been replaced");
        }
        true
    }

    /// Has the CLI close it. Where that fails, the CLI has gone, or has closed it already.
    async fn detach_or_log(&self, link: &Link) {
        if let Err(error) = self.detach(link).await {
            debug!(session = %self.id(), %error, "the session could not leave a CLI that is replaced");
        }
    }

    async fn detach(&self, link: &Link) -> Result<(), backend::Error> {
        let session_id = self.cli_id();
        self.call_within(RESUME_LIMIT, link, &Detach { session_id }).await.map(|_| ())
    }

    /// Why a call fails whose session could not be loaded.
    pub(in crate::session) fn not_loaded(&self, cause: TurnCause) -> Error {
        match cause {
            TurnCause::NotFound(id) => Error::NotFound(id),
            TurnCause::Lost { session, cli } => Error::Lost { session, cli },
            TurnCause::Store(error) => error.into(),
            TurnCause::Deleted => Error::NotFound(self.id().clone()),
            TurnCause::Moved(id) => Error::Moved(id),
            TurnCause::Backend(error) => error.into(),
            cause => Error::Turn(Arc::new(TurnError::not_delivered(cause))),
        }
    }

    fn parameters<'a>(&'a self, blueprint: &'a Blueprint) -> Parameters<'a> {
        Parameters::new(self.cli_id(), &blueprint.settings)
    }

    /// Resumes it. Right after its last connection has left, the CLI may not find a session for a moment (observed).
    async fn resume(&self, link: &Link, stored: Stored) -> Result<Created, backend::Error> {
        let blueprint = self.blueprint();
        let continue_pending_work = self.lock().current.as_deref().is_some_and(Active::is_under_way);
        let mut tries = 0..RESUME_TRIES;
        let mut parameters = self.parameters(&blueprint);
        parameters.leave_model();
        let folders = self.own_folders().await;
        let mut folders = folders.iter().peekable();
        loop {
            tries.next();
            if let Some(folder) = folders.peek() {
                parameters.work_in(folder);
            }
            let resume = Resume { parameters, continue_pending_work };
            let resumed = self.call_within(RESUME_LIMIT, link, &resume).await;
            parameters = resume.parameters;
            match resumed {
                Err(backend::Error::Rejected(Rejection::SessionNotFound))
                    if stored > Stored::No && !tries.is_empty() => {}
                // Of a connection that was just lost, or of another server, which then offers the tools for both.
                Err(backend::Error::Rejected(Rejection::ToolsTaken)) if !tries.is_empty() => {
                    if tries.len() == 1 {
                        parameters.leave_tools();
                    }
                }
                // The folder has gone since it was looked at.
                Err(backend::Error::Rejected(Rejection::InvalidParameter(_))) if folders.len() > 1 => {
                    folders.next();
                }
                resumed => {
                    if let (Ok(_), Some(folder)) = (&resumed, folders.next()) {
                        self.lock().working_directory.clone_from(folder);
                    }
                    return resumed;
                }
            }
            sleep(RESUME_PAUSE).await;
        }
    }

    /// Where it is to work, the best first; nowhere in particular, if somebody has named a folder. It goes on where it did, if that is on
    /// this machine. The CLI may know an older folder, of a server that had it before.
    async fn own_folders(&self) -> Vec<String> {
        let backend = self.backend();
        let own = backend.work_dir().and_then(|folder| std::path::absolute(folder).ok());
        let Some(own) = own.filter(|_| self.blueprint().settings.working_directory.is_none()) else {
            return Vec::new();
        };
        let own = own.to_string_lossy().into_owned();
        let known = self.lock().working_directory.clone();
        let is_here = known != own && tokio::fs::metadata(&known).await.is_ok_and(|it| it.is_dir());
        if is_here { vec![known, own] } else { vec![own] }
    }

    async fn complete(self: &Arc<Self>, link: &Arc<Link>, created: Created) -> Result<(), backend::Error> {
        let options = UpdateOptions { session_id: self.cli_id(), options: EmptyOptions::default() };
        self.call(link, &options).await?;
        // Those who ask by a request to the client, and not by an event, would lose it with the link.
        for event_type in self.blueprint().settings.interests() {
            self.call(link, &RegisterInterest { session_id: self.cli_id(), event_type }).await?;
        }
        let title =
            Some(self.lock()).filter(|state| state.stored == Stored::No).map(|state| state.title.clone());
        // A session without a message that was made anew: it had its title from its owner.
        if let Some(title) = title.filter(|title| !title.is_empty()) {
            self.name(link, &title).await?;
        }
        let mut state = self.lock();
        if let Some(lost) = link.loss() {
            return Err(lost);
        }
        state.autopilot = created.mode == "autopilot";
        state.start_time = created.start_time;
        state.loaded(link);
        drop(state);
        self.keep();
        Ok(())
    }

    /// Puts the session into mode "autopilot", or out of it.
    pub(in crate::session) async fn set_autopilot(
        &self,
        link: &Link,
        autopilot: bool,
    ) -> Result<(), backend::Error> {
        if self.lock().autopilot == autopilot {
            return Ok(());
        }
        let mode = if autopilot { "autopilot" } else { "interactive" };
        self.call(link, &SetMode { session_id: self.cli_id(), mode }).await?;
        self.lock().autopilot = autopilot;
        Ok(())
    }

    /// Leaves it, so that the CLI closes it.
    pub(in crate::session) async fn unload(&self) -> Result<(), backend::Error> {
        let _loading = self.loading.lock().await;
        let Some(link) = self.reachable() else { return Ok(()) };
        self.let_go().await;
        self.detach(&link).await?;
        self.unloaded();
        Ok(())
    }

    /// Whether the CLI that has the session loaded neither has it any more nor stored it, or has another one of its id. In doubt it
    /// has it.
    pub(in crate::session) async fn is_gone_from_cli(&self) -> bool {
        match self.attached() {
            Some(link) => self.is_gone_from(&link).await,
            None => false,
        }
    }

    /// The same of the CLI behind a link.
    pub(in crate::session) async fn is_gone_from(&self, link: &Link) -> bool {
        let start_time = self.lock().start_time.clone();
        let session_id = self.cli_id();
        match link.call(&IsProcessing { session_id }).await {
            Err(backend::Error::Rejected(Rejection::SessionNotFound)) => self.is_not_stored(link).await,
            Ok(_) => {
                let snapshot = link.call(&GetSnapshot { session_id }).await;
                snapshot.is_ok_and(|snapshot| !start_time.is_empty() && snapshot.start_time != start_time)
            }
            Err(_) => false,
        }
    }

    /// Whether the CLI says that it has not stored it.
    async fn is_not_stored(&self, link: &Link) -> bool {
        let metadata = link.call(&GetMetadata { session_id: self.cli_id() }).await;
        metadata.is_ok_and(|metadata| metadata.session.is_none())
    }

    /// It is about to be made anew.
    fn nothing_is_left(&self) {
        let mut state = self.lock();
        state.stored = Stored::No;
        state.made_anew += 1;
    }

    /// The CLI does not have the session loaded any more.
    pub(in crate::session) fn unloaded(&self) {
        self.lock().unloaded();
    }
}

/// How often a session is loaded whose link is lost meanwhile.
const LOAD_TRIES: u32 = 3;

/// How long it may take to load a session. Half of what other calls get: see [`deleting`](super::deleting).
const RESUME_LIMIT: Duration = Duration::from_secs(30);

/// How often a stored session is looked for, and the pause between: 0.2 s were observed to be enough.
const RESUME_TRIES: u32 = 5;

/// See [`RESUME_TRIES`].
const RESUME_PAUSE: Duration = Duration::from_millis(100);
