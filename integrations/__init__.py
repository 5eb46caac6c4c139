"""Where modfill meets other libraries; installed as `modfill.integrations`."""
