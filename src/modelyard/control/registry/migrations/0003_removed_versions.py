from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("registry", "0002_life_of_a_version")]

    operations = [
        migrations.AlterField(
            model_name="version",
            name="status",
            field=models.CharField(
                choices=[("ready", "Ready"), ("failed", "Failed"), ("removed", "Removed")], default="ready", max_length=8
            ),
        ),
    ]
