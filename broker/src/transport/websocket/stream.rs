//! A byte stream over a WebSocket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};

use super::frames::{Decoder, Violation};

/// The longest header that a server sends.
const HEADER_MAX: usize = 10;
/// Reads without a byte of MQTT after which the others of the thread have their turn.
const EMPTY_READS_MAX: usize = 16;

/// The server's end of a WebSocket. What is written becomes binary frames, one for each write.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    /// What came behind the request, as it came.
    early: Vec<u8>,
    /// The header of the frame that is being written.
    header: [u8; HEADER_MAX],
    header_at: u8,
    header_len: u8,
    /// Bytes of that frame that have not been written.
    left: usize,
    /// A control frame that waits until this frame is over; the first `control_at` bytes are written.
    control: Vec<u8>,
    control_at: usize,
    /// Close is written, or is about to be.
    closing: bool,
}

impl<S> WebSocket<S> {
    /// After the opening handshake; `early` came behind the request.
    pub fn new(stream: S, early: Vec<u8>, frame_max: u64) -> Self {
        Self {
            stream,
            decoder: Decoder::new(frame_max),
            early,
            header: [0; HEADER_MAX],
            header_at: 0,
            header_len: 0,
            left: 0,
            control: Vec::new(),
            control_at: 0,
            closing: false,
        }
    }

    fn say(&mut self, frame: Frame) {
        let mut bytes = Vec::new();
        // Into memory: it cannot fail.
        let _ = frame.format(&mut bytes);
        self.control.extend_from_slice(&bytes);
    }

    fn say_close(&mut self, code: CloseCode) {
        if !std::mem::replace(&mut self.closing, true) {
            self.say(Frame::close(Some(CloseFrame { code, reason: "".into() })));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Writes the control frame that waits, if it may be written now.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.left > 0 || self.header_at < self.header_len {
            return Poll::Ready(Ok(()));
        }
        if self.control.is_empty()
            && !self.closing
            && let Some(payload) = self.decoder.take_ping()
        {
            self.say(Frame::pong(payload));
        }
        if self.control.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = self.control.get(self.control_at..)
            && !rest.is_empty()
        {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.control_at += n,
            }
        }
        (self.control, self.control_at) = (Vec::new(), 0);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Reads what there is of payloads: zero at the end.
    fn poll_payload(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Option<usize>>> {
        let before = buf.filled().len();
        if self.early.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let here = self.early.len().min(buf.remaining());
            buf.put_slice(self.early.get(..here).unwrap_or_default());
            self.early.drain(..here);
            self.early.shrink_to_fit();
        }
        let came = buf.filled_mut().get_mut(before..).unwrap_or_default();
        if came.is_empty() {
            return Poll::Ready(Ok(None));
        }
        match self.decoder.decode(came) {
            Ok(length) => {
                buf.set_filled(before + length);
                Poll::Ready(Ok(Some(length)))
            }
            Err(violation) => {
                buf.set_filled(before);
                Poll::Ready(Err(self.refuse(violation, cx)))
            }
        }
    }

    fn refuse(&mut self, violation: Violation, cx: &mut Context<'_>) -> io::Error {
        self.say_close(violation.code());
        let _ = self.poll_control(cx);
        io::Error::new(io::ErrorKind::InvalidData, violation.text())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        for _ in 0..EMPTY_READS_MAX {
            if let Poll::Ready(Err(error)) = this.poll_control(cx) {
                return Poll::Ready(Err(error));
            }
            if this.decoder.closed() {
                this.say_close(CloseCode::Normal);
                let _ = this.poll_control(cx);
                return Poll::Ready(Ok(()));
            }
            match ready!(this.poll_payload(cx, buf))? {
                Some(0) => {}
                Some(_) | None => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.left == 0 {
            ready!(this.poll_control(cx))?;
            if this.closing {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let header = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
            let mut room = &mut this.header[..];
            header.format(bytes.len() as u64, &mut room).map_err(io::Error::other)?;
            let unused = room.len();
            (this.header_at, this.header_len) = (0, u8::try_from(HEADER_MAX - unused).unwrap_or_default());
            this.left = bytes.len();
        }
        // The caller goes on with the bytes that were not taken, and perhaps more: those are for the next frame.
        let payload = bytes.get(..this.left.min(bytes.len())).unwrap_or_default();
        loop {
            let header = this.header.get(usize::from(this.header_at)..usize::from(this.header_len)).unwrap_or_default();
            let pieces = [IoSlice::new(header), IoSlice::new(payload)];
            let pieces = if header.is_empty() { pieces.get(1..).unwrap_or_default() } else { &pieces[..] };
            let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, pieces))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            let of_header = written.min(header.len());
            this.header_at += u8::try_from(of_header).unwrap_or_default();
            let of_payload = written - of_header;
            if of_payload > 0 {
                this.left -= of_payload;
                return Poll::Ready(Ok(of_payload));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_control(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.say_close(CloseCode::Normal);
        // Best effort: a peer that does not read is not waited for.
        let _ = this.poll_control(cx);
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_written_comes_out_of_frames_however_small_the_socket_is() {
        for room in [1, 5, 9, 100, 1 << 20] {
            let (near, far) = duplex(room);
            let mut socket = WebSocket::new(near, Vec::new(), 1 << 20);
            let writer = tokio::spawn(async move {
                for length in [1, 125, 126, 70_000] {
                    socket.write_all(&vec![b'x'; length]).await.unwrap();
                }
                socket.shutdown().await.unwrap();
            });
            let reader = async {
                let (mut far, mut bytes) = (far, Vec::new());
                far.read_to_end(&mut bytes).await.unwrap();
                bytes
            };
            let mut bytes = &reader.await[..];
            writer.await.unwrap();
            for length in [1_u64, 125, 126, 70_000] {
                let mut cursor = io::Cursor::new(bytes);
                let (header, found) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
                assert_eq!((header.opcode, header.is_final, found), (OpCode::Data(Data::Binary), true, length));
                bytes = &bytes[usize::try_from(cursor.position() + length).unwrap()..];
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_ping_is_answered_between_frames() {
        let (near, mut far) = duplex(1 << 16);
        let mut socket = WebSocket::new(near, Vec::new(), 1 << 20);
        // Ping "hi", then a binary frame of one byte, with a mask of zeros.
        far.write_all(b"\x89\x82\0\0\0\0hi\x82\x81\0\0\0\0m").await.unwrap();
        let mut byte = [0; 8];
        assert_eq!(socket.read(&mut byte).await.unwrap(), 1);
        assert_eq!(byte[0], b'm');
        socket.write_all(b"!").await.unwrap();
        let mut answer = [0; 7];
        far.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\x8a\x02hi\x82\x01!");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn close_is_answered_and_is_the_end() {
        let (near, mut far) = duplex(1 << 16);
        let mut socket = WebSocket::new(near, b"\x82\x81\0\0\0\0e".to_vec(), 1 << 20);
        far.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"e");
        drop(socket);
        bytes.clear();
        far.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"\x88\x02\x03\xe8");
    }
}
