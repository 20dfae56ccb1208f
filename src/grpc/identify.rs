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
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, FutureExt as _};
use http::{
    HeaderMap, HeaderName, Request, Response,
    header::{AUTHORIZATION, HeaderValue},
};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use super::{
    access::{Access, Roles},
    forward,
    status,
    transport::Transport,
};
use crate::{
    identity::{Caller, Identities, Presented, Refused, Role},
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
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(identities) = self.identities.clone() else { return self.inner.call(request).boxed() };
        if self.sessions.store().is_shared() && forward::is_forwarded(request.headers()) {
            return self.inner.call(request).boxed();
        }
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        async move {
            match caller(&identities, &request).await {
                Ok(caller) => {
                    // Nobody behind this is to see it, or pass it on.
                    request.headers_mut().remove(AUTHORIZATION);
                    request.headers_mut().remove(FORWARDED_CLIENT_CERT);
                    request.extensions_mut().insert(access(&caller));
                    inner.call(request).await
                }
                Err(refused) => Ok(status::unauthenticated(&refused).into_http()),
            }
        }
        .boxed()
    }
}

async fn caller(identities: &Identities, request: &Request<Body>) -> Result<Caller, Refused> {
    let transport = request.extensions().get::<Transport>();
    let headers = request.headers();
    identities
        .identify(&Presented {
            authorization: single(headers, &AUTHORIZATION)?.map(HeaderValue::as_bytes),
            forwarded_client_cert: single(headers, &FORWARDED_CLIENT_CERT)?.map(HeaderValue::as_bytes),
            certificate: transport.and_then(|transport| transport.certificate.as_deref()),
            uid: transport.and_then(|transport| transport.uid()),
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
