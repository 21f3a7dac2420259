// Browsers start no worker for a page that lies on disk: a hidden frame stands in for it, so that the search works there too.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentDocument
      inside.open()
      inside.write(`<script>
        postMessage = message => parent.dispatchEvent(new MessageEvent("message", { data: message, source: window }))
        importScripts = (...urls) => urls.reduce((before, src) => before.then(() => new Promise((resolve, reject) => {
          document.body.append(Object.assign(document.createElement("script"), { src, onload: resolve, onerror: reject }))
        })), Promise.resolve())
      <\/script><body><script src="${url}"><\/script>`)
      inside.close()
      addEventListener("message", event => {
        if (event.source === this.frame.contentWindow) this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      })
    }
    postMessage(message) {
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: message }))
    }
  }
}
