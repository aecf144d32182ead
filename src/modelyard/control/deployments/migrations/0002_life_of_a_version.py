import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('deployments', '0001_initial'),
        ('registry', '0002_life_of_a_version'),
    ]

    operations = [
        migrations.CreateModel(
            name='Change',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('endpoint', models.CharField(db_index=True, help_text='its name: the change outlives it', max_length=63)),
                ('verb', models.CharField(max_length=40)),
                ('arguments', models.JSONField()),
                ('by', models.CharField(max_length=150)),
                ('at', models.DateTimeField(auto_now_add=True)),
                ('expected', models.PositiveBigIntegerField(help_text="the endpoint's revision when this was asked")),
                ('status', models.CharField(choices=[('waiting', 'Waiting'), ('approved', 'Approved'), ('rejected', 'Rejected'), ('stale', 'Stale'), ('withdrawn', 'Withdrawn')], default='waiting', max_length=9)),
                ('decided_by', models.CharField(blank=True, default='', max_length=150)),
                ('decided_at', models.DateTimeField(blank=True, null=True)),
                ('reason', models.TextField(blank=True, default='', help_text='why it was not done')),
                ('revision', models.PositiveBigIntegerField(blank=True, help_text='of the plan that it made', null=True)),
            ],
            options={
                'ordering': ['-pk'],
                'permissions': [('approve_change', 'Can approve or reject a change')],
            },
        ),
        migrations.AddField(
            model_name='endpoint',
            name='lease_by',
            field=models.CharField(blank=True, default='', help_text='whose changes the lease outlives', max_length=150),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='lease_fallback',
            field=models.ForeignKey(blank=True, help_text='has all calls after that', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='fallbacks', to='registry.version'),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='lease_seconds',
            field=models.FloatField(blank=True, help_text='how long the split holds without a sign of life from the control plane', null=True),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='needs_approval',
            field=models.BooleanField(default=False, help_text='changes wait until another principal approves them'),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='is_pinned',
            field=models.BooleanField(default=False, help_text='its versions stay in memory, whatever the budget'),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='revision',
            field=models.PositiveBigIntegerField(default=0, help_text='of the plan that its last change made'),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='shadow',
            field=models.ForeignKey(blank=True, help_text='gets copies, never answers', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='shadowed', to='registry.version'),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='shadow_percent',
            field=models.PositiveSmallIntegerField(blank=True, null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(100)]),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='spans',
            field=models.JSONField(blank=True, default=list, help_text='who has which of the hundred slots: [version, slots], from slot 0 on'),
        ),
        migrations.AlterField(
            model_name='endpoint',
            name='sticky_by',
            field=models.CharField(blank=True, default='', help_text='header, or column:NAME, that pins a caller to a version', max_length=200),
        ),
        migrations.AddConstraint(
            model_name='endpoint',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('shadow__isnull', True), ('shadow_percent__isnull', True)), models.Q(('shadow__isnull', False), ('shadow_percent__gte', 1), ('shadow_percent__lte', 100)), _connector='OR'), name='shadow_has_a_percent'),
        ),
        migrations.AddConstraint(
            model_name='endpoint',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('lease_fallback__isnull', True), ('lease_seconds__isnull', True)), models.Q(('lease_fallback__isnull', False), ('lease_seconds__gt', 0)), _connector='OR'), name='lease_has_a_fallback'),
        ),
        migrations.AddConstraint(
            model_name='change',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status', 'approved'), _negated=True), models.Q(models.Q(('decided_by', ''), _negated=True), models.Q(('decided_by', models.F('by')), _negated=True)), _connector='OR'), name='approved_by_another'),
        ),
        migrations.AddConstraint(
            model_name='change',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('decided_at__isnull', True), ('status', 'waiting')), models.Q(models.Q(('status', 'waiting'), _negated=True), ('decided_at__isnull', False)), _connector='OR'), name='decided_once'),
        ),
    ]
