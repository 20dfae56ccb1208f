//! Asks each call who its caller is, before anything else of it is looked at. What the identity room says decides what the call may
//! see ([`Access`]); who shows nothing, or something wrong, is refused.
//!
//! A call that another server forwards was asked there: it says for whom it comes, and is taken at its word by [`Forwarding`], which
//! checks the cluster's token.
//!
//! [`Forwarding`]: super::forward::Forwarding
//!
//! Tests: `tests/integration/identified.rs`, `tests/integration/tenants.rs`.

use std::{
    borrow::Cow,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, FutureExt as _};
use http::{
    HeaderMap, HeaderName, Request, Response,
    header::{AUTHORIZATION, HeaderValue},
    request::Parts,
};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use super::{
    access::{Access, Roles},
    forward, status,
    transport::{ClientCertificate, Transport},
};
use crate::{
    identity::{Caller, CertificateNames, Identities, Presented, Refused, Role},
    session::{Sessions, Tenant},
};

/// What a proxy tells of its client's certificate.
const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// A service whose callers are asked who they are; `None`: nobody is.
#[derive(Debug, Clone)]
pub(super) struct Identified<S> {
    pub(super) inner: S,
    pub(super) identities: Option<Arc<Identities>>,
    pub(super) sessions: Sessions,
}

impl<S: NamedService> NamedService for Identified<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Identified<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if self.sessions.store().is_shared() && forward::is_forwarded(request.headers()) {
            return self.inner.call(request).boxed();
        }
        let Some(identities) = self.identities.clone() else {
            request.extensions_mut().insert(Access::EVERYBODY);
            return self.inner.call(request).boxed();
        };
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        async move {
            let (mut parts, body) = request.into_parts();
            match caller(&identities, &parts).await {
                Ok(caller) => {
                    // Nobody behind this is to see it, or pass it on.
                    parts.headers.remove(AUTHORIZATION);
                    parts.headers.remove(FORWARDED_CLIENT_CERT);
                    parts.extensions.insert(access(&caller));
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(refused) => Ok(status::unauthenticated(&refused).into_http()),
            }
        }
        .boxed()
    }
}

async fn caller(identities: &Identities, call: &Parts) -> Result<Caller, Refused> {
    let transport = call.extensions.get::<Transport>();
    let names = transport.and_then(|transport| transport.certificate.as_deref()).map(names);
    let (headers, forwarded) = (&call.headers, joined(&call.headers, &FORWARDED_CLIENT_CERT));
    identities
        .identify(&Presented {
            authorization: single(headers, &AUTHORIZATION)?.map(HeaderValue::as_bytes),
            forwarded_client_cert: forwarded.as_deref(),
            certificate: names.as_ref(),
            uid: transport.and_then(|transport| transport.process).map(|process| process.uid),
            from: transport.and_then(|transport| transport.address).map(|address| address.ip()),
        })
        .await
}

/// The one value of a header.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Refused> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Refused::Malformed("an identity header may come only once")),
        (value, None) => Ok(value),
    }
}

/// All values of a header that is a list (RFC 9110, section 5.3).
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    Some(values.fold(Cow::Borrowed(first), |all, value| [&*all, value].join(&b","[..]).into()))
}

/// The names in a certificate, as the identity room takes them.
fn names(certificate: &ClientCertificate) -> CertificateNames {
    let ClientCertificate { dns_names, uris, emails, common_name, .. } = certificate.clone();
    CertificateNames { dns: dns_names, uri: uris, email: emails, common_name, sha256: None }
}

fn access(caller: &Caller) -> Access {
    Access {
        tenant: Tenant::named(caller.tenant.as_str()),
        subject: Some(caller.subject.as_str().into()),
        roles: Roles {
            tenant_admin: caller.roles.has(Role::TenantAdmin),
            operator: caller.roles.has(Role::Operator),
        },
    }
}
