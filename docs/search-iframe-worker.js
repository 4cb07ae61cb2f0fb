// Pages from a folder may not start workers, which the search is one of: there it runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.frame = frame
      this.inside = frame.contentWindow
      addEventListener("message", ({ source, data }) => {
        if (source !== this.inside) return
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      })
      const page = this.inside.document
      page.open()
      page.write(`<script>
        var postMessage = message => parent.postMessage(message, "*")
        var importScripts = (...urls) => Promise.all(urls.map(url => new Promise((done, failed) => {
          const script = document.createElement("script")
          Object.assign(script, { src: url, onload: done, onerror: failed })
          document.body.append(script)
        })))
      <\/script><body><script src="${url}"><\/script>`)
      page.close()
    }

    postMessage(message) {
      this.inside.dispatchEvent(new MessageEvent("message", { data: message })) // its postMessage is ours
    }

    terminate() {
      this.frame.remove()
    }
  }
}
