//! A name server on loopback that says what a test tells it to, over UDP.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use copilot_grpc::backend::Names;
use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use tokio::{net::UdpSocket, task::AbortHandle};

/// A name server on loopback.
pub(crate) struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Zone {
    records: HashMap<String, Vec<Record>>,
    /// What is answered instead to questions of a kind.
    fails: HashMap<RecordType, ResponseCode>,
    asked: usize,
}

impl NameServer {
    /// One that knows no names yet.
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, zone) = (socket.local_addr().unwrap(), Arc::<Mutex<Zone>>::default());
        let serving = tokio::spawn(serve(socket, zone.clone())).abort_handle();
        Self { address, zone, serving }
    }

    /// Names as it has them.
    pub(crate) fn names(&self) -> Names {
        Names::served_by(self.address, Duration::from_millis(10))
    }

    /// From now on a name has these addresses and no others.
    pub(crate) fn has(&self, name: &str, addresses: &[&str]) {
        let data = |address: &&str| match address.parse().unwrap() {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        self.put(name, 0, addresses.iter().map(data));
    }

    /// From now on the records of a name, which hold for so many seconds, lead to these hosts and ports.
    pub(crate) fn leads_to(&self, name: &str, ttl: u32, targets: &[(&str, u16)]) {
        let data =
            |(host, port): &(&str, u16)| RData::SRV(SRV::new(0, 100, *port, Name::from_ascii(host).unwrap()));
        self.put(name, ttl, targets.iter().map(data));
    }

    fn put(&self, name: &str, ttl: u32, data: impl Iterator<Item = RData>) {
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        let records = data.map(|data| Record::from_rdata(name.clone(), ttl, data)).collect();
        self.zone.lock().unwrap().records.insert(name.to_ascii(), records);
    }

    /// From now on it answers questions of a kind with an error; `None`: no longer.
    pub(crate) fn fail(&self, kind: RecordType, error: Option<ResponseCode>) {
        let fails = &mut self.zone.lock().unwrap().fails;
        match error {
            Some(error) => fails.insert(kind, error),
            None => fails.remove(&kind),
        };
    }

    /// How often it has been asked.
    pub(crate) fn asked(&self) -> usize {
        self.zone.lock().unwrap().asked
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let answer = zone.lock().unwrap().answer(question);
        socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
    }
}

impl Zone {
    fn answer(&mut self, question: Message) -> Message {
        self.asked += 1;
        let mut answer = question;
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_available = true;
        answer.additionals.clear();
        let query = &answer.queries[0];
        let (kind, name) = (query.query_type(), query.name().to_lowercase().to_ascii());
        match (self.fails.get(&kind), self.records.get(&name)) {
            (Some(error), _) => answer.metadata.response_code = *error,
            (None, None) => answer.metadata.response_code = ResponseCode::NXDomain,
            (None, Some(records)) => {
                answer.answers = records.iter().filter(|it| it.record_type() == kind).cloned().collect();
            }
        }
        answer
    }
}
