// A gRPC facade as one writes it in an afternoon: the official Node SDK behind @grpc/grpc-js, with the calls that the benchmarks
// make. `node facade.mjs CLI_PORT PROTO_FOLDER`; prints its port.
import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [cliPort, protoFolder] = process.argv.slice(2);
const client = new CopilotClient({ connection: RuntimeConnection.forUri(`127.0.0.1:${cliPort}`) });
await client.start();
const sessions = new Map();
const fail = (callback) => (error) => callback({ code: grpc.status.INTERNAL, details: String(error) });

async function createSession(call, callback) {
    const sessionId = call.request.session_id;
    const config = { sessionId, model: "scripted", streaming: true, onPermissionRequest: approveAll };
    sessions.set(sessionId, await client.createSession(config));
    callback(null, { session: { session_id: sessionId } });
}

async function sendAndWait(call, callback) {
    const { session_id, prompt } = call.request;
    const answer = await sessions.get(session_id).sendAndWait({ prompt: prompt.text });
    callback(null, { result: { content: answer?.data.content ?? "" } });
}

async function sendAndStream(call) {
    const { session_id, prompt } = call.request;
    const session = sessions.get(session_id);
    const stop = session.on("assistant.message_delta", ({ id, timestamp, data }) => {
        const time = Date.parse(timestamp);
        call.write({
            event: {
                event_id: id,
                event_time: { seconds: Math.floor(time / 1000), nanos: (time % 1000) * 1e6 },
                ephemeral: true,
                assistant_message_delta: { message_id: data.messageId, text: data.deltaContent },
            },
        });
    });
    const answer = await session.sendAndWait({ prompt: prompt.text });
    stop();
    call.write({ result: { content: answer?.data.content ?? "" } });
    call.end();
}

const options = { keepCase: true, includeDirs: [protoFolder], oneofs: true };
const proto = grpc.loadPackageDefinition(loader.loadSync("copilot_grpc/v1/copilot_service.proto", options));
const server = new grpc.Server({ "grpc.max_concurrent_streams": 10000 });
server.addService(proto.copilot_grpc.v1.CopilotService.service, {
    CreateSession: (call, callback) => createSession(call, callback).catch(fail(callback)),
    SendAndWait: (call, callback) => sendAndWait(call, callback).catch(fail(callback)),
    SendAndStream: (call) => sendAndStream(call).catch((error) => call.destroy(error)),
});
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(port);
});
