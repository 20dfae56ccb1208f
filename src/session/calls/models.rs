//! The models that sessions can have: the operator's own list where a provider is the operator's, GitHub's otherwise.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    backend,
    copilot::{
        Provider, Secret, Settings,
        method::{ListModels, Model},
    },
    session::{
        blueprint::{Credentials, Profile},
        error::Error,
        sessions::Sessions,
    },
};

impl Sessions {
    /// The models of sessions under this profile or none, with this GitHub token or the CLI's own identity. `default` is the
    /// model of the operator's provider.
    pub async fn models(
        &self,
        profile: Option<&Profile>,
        token: Option<Secret>,
        default: Option<&str>,
    ) -> Result<Vec<Model>, Error> {
        if let Some(profile) = profile {
            let credentials = Credentials { github_token: token.clone(), ..Credentials::default() };
            profile.admit(&credentials).map_err(Error::Denied)?;
        }
        let own = profile.and_then(|profile| profile.provider.as_ref());
        if let Some(provider) = own.or(self.inner.operator.as_ref()) {
            let default = default.filter(|_| own.is_none());
            return Ok(catalogue(provider, profile, default));
        }
        let token = token.or_else(|| profile.and_then(|profile| profile.github_token.clone()));
        let models = self.models_of_github(token).await?;
        let allowed = models
            .iter()
            .filter(|model| profile.is_none_or(|profile| profile.admit_model(&model.id).is_ok()));
        Ok(allowed.cloned().collect())
    }

    async fn models_of_github(&self, token: Option<Secret>) -> Result<Arc<Vec<Model>>, Error> {
        // GitHub tells each of them the same: whose models they are, the token decides, or the login that they share.
        let (link, now) = (self.inner.means.pool.any()?.connected().await?, Instant::now());
        let account = self.inner.models.account(link.id(), token.as_ref());
        if let Some(models) = self.inner.models.find(account, now) {
            return Ok(models);
        }
        let question = ListModels { git_hub_token: token.as_ref() };
        let listed = link.call(&question).await.map_err(|error| match error {
            backend::Error::Rejected(rejection) => {
                let secrets = Settings { github_token: token.clone(), ..Settings::default() };
                backend::Error::Rejected(rejection.map(|text| secrets.redact(&text)))
            }
            other => other,
        })?;
        let models = Arc::new(listed.models);
        self.inner.models.keep(account, now, models.clone());
        Ok(models)
    }
}

/// What the operator says of a provider: the profile's models that are no patterns, else the default.
fn catalogue(provider: &Provider, profile: Option<&Profile>, default: Option<&str>) -> Vec<Model> {
    let limit = |tokens: Option<u64>| tokens.and_then(|tokens| i64::try_from(tokens).ok());
    let model = |id: &str| {
        let mut model = Model { id: id.into(), name: id.into(), ..Model::default() };
        model.capabilities.limits.max_prompt_tokens = limit(provider.max_prompt_tokens);
        model.capabilities.limits.max_output_tokens = limit(provider.max_output_tokens);
        model
    };
    match profile.map(Profile::plain_models) {
        Some(models) if profile.is_some_and(|profile| !profile.models.is_empty()) => {
            models.into_iter().map(model).collect()
        }
        _ => default.into_iter().map(model).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(provider: &Provider, profile: Option<&Profile>, default: Option<&str>) -> Vec<String> {
        catalogue(provider, profile, default).into_iter().map(|model| model.id).collect()
    }

    #[test]
    fn the_operators_list_is_the_profiles_models_else_the_default() {
        let provider = Provider { max_prompt_tokens: Some(7), ..Provider::default() };
        let profile = |models: &[&str]| Profile {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..Profile::default()
        };
        assert_eq!(ids(&provider, None, Some("m")), ["m"]);
        assert_eq!(ids(&provider, Some(&profile(&[])), Some("m")), ["m"]);
        assert_eq!(ids(&provider, Some(&profile(&["a", "b*", "c"])), Some("m")), ["a", "c"]);
        assert_eq!(ids(&provider, Some(&profile(&["b*"])), Some("m")), Vec::<String>::new());
        assert_eq!(ids(&provider, None, None), Vec::<String>::new());
        let told = &catalogue(&provider, None, Some("m"))[0];
        assert_eq!(told.capabilities.limits.max_prompt_tokens, Some(7));
    }
}
