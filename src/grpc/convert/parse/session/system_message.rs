//! Parses the system message.

use std::collections::BTreeMap;

use super::{Checks, non_empty};
use crate::{
    copilot::{Section, SystemMessage},
    grpc::pb,
};

impl Checks {
    pub(in crate::grpc) fn system_message(&mut self, message: Option<pb::SystemMessage>) -> SystemMessage {
        let Some(pb::SystemMessage { mode, content, sections }) = message else {
            return SystemMessage::default();
        };
        let mode = pb::SystemMessageMode::try_from(mode).unwrap_or_default();
        if mode != pb::SystemMessageMode::Customize && !sections.is_empty() {
            self.wrong("system_message.sections", "need SYSTEM_MESSAGE_MODE_CUSTOMIZE");
        }
        match mode {
            pb::SystemMessageMode::Unspecified => {
                let advice = "must be SYSTEM_MESSAGE_MODE_APPEND, _REPLACE or _CUSTOMIZE";
                self.wrong("system_message.mode", advice);
                SystemMessage::default()
            }
            pb::SystemMessageMode::Append => {
                let content = Some(self.text("system_message.content", content));
                SystemMessage::Customize { content, sections: BTreeMap::new() }
            }
            pb::SystemMessageMode::Replace => {
                SystemMessage::Replace { content: self.text("system_message.content", content) }
            }
            pb::SystemMessageMode::Customize => {
                let sections = sections.into_iter().map(|(name, section)| {
                    let section = self.section(&name, section);
                    (name, section)
                });
                let sections = sections.collect();
                SystemMessage::Customize { content: non_empty(content), sections }
            }
        }
    }

    fn section(&mut self, name: &str, section: pb::SystemMessageSection) -> Section {
        let field = |part: &str| format!("system_message.sections[{name:?}].{part}");
        let content = section.content;
        match pb::SectionAction::try_from(section.action).unwrap_or_default() {
            pb::SectionAction::Unspecified => {
                self.wrong(field("action"), "must be one of SectionAction");
                Section::Preserve
            }
            pb::SectionAction::Preserve => Section::Preserve,
            pb::SectionAction::Remove => Section::Remove,
            pb::SectionAction::Replace => Section::Replace { content: self.text(&field("content"), content) },
            pb::SectionAction::Append => Section::Append { content: self.text(&field("content"), content) },
            pb::SectionAction::Prepend => Section::Prepend { content: self.text(&field("content"), content) },
        }
    }
}
